"""onnxruntime is loaded only after its telemetry is turned off."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VARIABLE = "ORT_DISABLE_TELEMETRY"

# The functions that load it, which turn telemetry off first.
LOADERS = {"packages/runtime/src/gpt2_runtime/providers/providers.py", "packages/export/src/gpt2_export/telemetry.py"}
# Files imported by pytest after a conftest that turns it off, or started with it off: `processes.py`.
AFTER_A_SWITCH = {
    "packages/runtime/tests": "packages/runtime/conftest.py",
    "packages/export/tests": "packages/export/tests/conftest.py",
    "tests": "tests/conftest.py",
    "benchmarks/adapters": "benchmarks/processes.py",
}
FOLDERS = ("packages", "tests", "benchmarks", "examples")

# Every import of onnxruntime prints the variable's value at that time.
PROGRAM = """
import importlib, importlib.abc, os, pkgutil, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get({variable!r}))

sys.meta_path.insert(0, Watch())
{program}
"""


def loads(tree: ast.AST, typing_only: bool = False) -> Iterator[int]:
    """The lines that import onnxruntime at run time."""
    for node in ast.iter_child_nodes(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if any(name.partition(".")[0] == "onnxruntime" for name in names) and not typing_only:
            yield node.lineno  # type: ignore[attr-defined]
        checked = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        yield from loads(node, typing_only or checked)


def uncovered(root: Path) -> list[str]:
    """The places below `root` that import onnxruntime without turning telemetry off first."""
    places = []
    for file in sorted(file for folder in FOLDERS for file in (root / folder).rglob("*.py")):
        place = file.relative_to(root).as_posix()
        if place in LOADERS or any(place.startswith(f"{folder}/") for folder in AFTER_A_SWITCH):
            continue
        places += [f"{place}:{line}" for line in loads(ast.parse(file.read_text(encoding="utf-8")))]
    return places


def test_nothing_imports_onnxruntime_without_the_switch() -> None:
    assert uncovered(ROOT) == []


@pytest.mark.parametrize("loader", sorted(LOADERS))
def test_a_loader_switches_first(loader: str) -> None:
    tree = ast.parse((ROOT / loader).read_text(encoding="utf-8"))
    (line,) = loads(tree)
    (function,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "load_onnxruntime")
    switch = [
        node.lineno for node in ast.walk(function) if isinstance(node, ast.Call) and "switch_off" in ast.dump(node)
    ]
    assert switch
    assert max(switch) < line


@pytest.mark.parametrize("switch", sorted(set(AFTER_A_SWITCH.values())))
def test_conftests_and_entry_points_turn_it_off(switch: str) -> None:
    text = (ROOT / switch).read_text(encoding="utf-8")
    assert VARIABLE in text or "telemetry.switch_off()" in text


def test_an_import_is_detected_anywhere_except_for_typing(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "a.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import onnxruntime\n"
        "def f():\n    from onnxruntime.capi import x\n"
        "import onnxruntime_genai\n"
    )
    assert uncovered(tmp_path) == ["examples/a.py:5"]


def values_at_import(program: str, **variables: str) -> list[str]:
    """The variable at each import of onnxruntime, in a process whose environment does not set it."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE} | variables
    command = [sys.executable, "-c", PROGRAM.format(variable=VARIABLE, program=program)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return ended.stdout.split()


@pytest.mark.parametrize(
    "program",
    [
        "from gpt2_runtime.providers.providers import load_onnxruntime; load_onnxruntime()",
        "from gpt2_export.telemetry import load_onnxruntime; load_onnxruntime()",
        "import gpt2_runtime.engine.session; gpt2_runtime.engine.session.choose_provider('cpu')",
    ],
)
def test_it_is_off_when_onnxruntime_is_imported(program: str) -> None:
    assert set(values_at_import(program)) == {"1"}


def test_the_users_setting_is_kept() -> None:
    program = "from gpt2_runtime.providers.providers import load_onnxruntime; load_onnxruntime()"
    assert set(values_at_import(program, **{VARIABLE: "0"})) == {"0"}


def test_the_detector_catches_an_import_without_it() -> None:
    assert values_at_import("import onnxruntime") == ["None"]
