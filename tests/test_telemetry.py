"""onnxruntime is loaded only where its reports to its makers have been switched off before."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VARIABLE = "ORT_DISABLE_TELEMETRY"

# The functions that load it, in which the switch comes first.
LOADERS = {"packages/runtime/src/gpt2_runtime/providers/providers.py", "packages/export/src/gpt2_export/telemetry.py"}
# What is imported by pytest after a conftest that switches it off, or started with it switched off: `processes.py`.
AFTER_A_SWITCH = {
    "packages/runtime/tests": "packages/runtime/conftest.py",
    "packages/export/tests": "packages/export/tests/conftest.py",
    "tests": "tests/conftest.py",
    "benchmarks/adapters": "benchmarks/processes.py",
}
FOLDERS = ("packages", "tests", "benchmarks", "examples")

# Any import of onnxruntime, by whomever, tells what the switch was then.
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
    """The lines that import onnxruntime when they are run."""
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
    """The places below `root` that import onnxruntime without a switch before."""
    found = []
    for file in sorted(file for folder in FOLDERS for file in (root / folder).rglob("*.py")):
        place = file.relative_to(root).as_posix()
        if place in LOADERS or any(place.startswith(f"{folder}/") for folder in AFTER_A_SWITCH):
            continue
        found += [f"{place}:{line}" for line in loads(ast.parse(file.read_text(encoding="utf-8")))]
    return found


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
def test_what_comes_before_others_switches(switch: str) -> None:
    text = (ROOT / switch).read_text(encoding="utf-8")
    assert VARIABLE in text or "telemetry.switch_off()" in text


def test_an_import_is_seen_wherever_it_stands_but_for_types(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "a.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import onnxruntime\n"
        "def f():\n    from onnxruntime.capi import x\n"
        "import onnxruntime_genai\n"
    )
    assert uncovered(tmp_path) == ["examples/a.py:5"]


def told(program: str, **variables: str) -> list[str]:
    """The switch at each import of onnxruntime in a process whose environment does not have it by itself."""
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
    assert set(told(program)) == {"1"}


def test_what_the_user_has_decided_stays() -> None:
    program = "from gpt2_runtime.providers.providers import load_onnxruntime; load_onnxruntime()"
    assert set(told(program, **{VARIABLE: "0"})) == {"0"}


def test_the_detector_sees_an_import_without_it() -> None:
    assert told("import onnxruntime") == ["None"]
