"""The documents are correct: their help texts are the commands' own, and their Python runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import readme

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_help_texts_in_the_documents_are_the_commands_own() -> None:
    result = subprocess.run([sys.executable, readme.__file__, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", readme.DOCUMENTS, ids=lambda path: str(path.relative_to(readme.ROOT)))
def test_python_in_the_documents_runs(path: Path) -> None:
    for block in PYTHON.findall(path.read_text(encoding="utf-8")):
        if not block.lstrip().startswith(">>>"):  # doctests run separately
            exec(compile(block, str(path), "exec"), {})
