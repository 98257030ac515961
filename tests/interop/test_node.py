"""transformers.js in Node: greedy tokens of single prompts and of left-padded batches, where it stops, tokens of hard
texts.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# The graph is at the folder's root; a page names its data too, and may be the same program.
IN_NODE = {"subfolder": ""}
IN_A_PAGE = IN_NODE | {
    "session_options": {"externalData": [{"path": "model.safetensors", "data": "model.safetensors"}]}
}


@pytest.fixture(scope="module", params=[IN_NODE, IN_A_PAGE], ids=["node's options", "a page's options"])
def answers(request: pytest.FixtureRequest, cases: dict[str, Any], questions: dict[str, Any]) -> dict[str, Any]:
    installed = Path(os.environ["INTEROP_MODULES"])
    for name in ("answers.mjs", "node.mjs"):  # a module is looked for beside the program that imports it
        shutil.copyfile(HERE / name, installed / name)
    command = ["node", str(installed / "node.mjs"), str(cases["tiny"].folder.parent)]
    asked = json.dumps({"questions": questions, "options": request.param})
    found = subprocess.run(command, input=asked, capture_output=True, encoding="utf-8", check=False)
    assert found.returncode == 0, found.stderr
    answers: dict[str, Any] = json.loads(found.stdout)
    return answers


def test_single_prompts_are_continued(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["greedy"] == case.greedy


def test_a_padded_batch_is_continued_as_each_row_alone(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["batch"] == case.greedy


def test_it_stops_at_the_end_of_text(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["stopped"] == [row["new_ids"] for row in case.stopped]


def test_texts_are_read_as_the_runtime_reads_them(answers: dict[str, Any], case: Any) -> None:
    assert answers[case.folder.name]["tokens"] == case.tokens
