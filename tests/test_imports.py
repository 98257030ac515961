"""The import graph, checked in clean interpreters: which package and which room loads which."""

import ast
import json
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

PACKAGES = Path(__file__).parent.parent / "packages"

# `a, b <- c` lets c import a, b and whatever these may import. A name is a room, or a module beside the rooms.
ARROWS = {
    "gpt2_model": """
        quoting, inert_fields, errors <- config <- gpt2 <- generate; quoting, errors <- text_file; quoting <- misfits;
        errors, quoting <- pickle_file, layouts, mingpt; foreign <- layouts; config <- nanogpt;
        foreign, pickle_file, text_file <- weight_files <- hub; hub, layouts, mingpt, nanogpt <- checkpoint;
        checkpoint, compiler, gpt2, misfits <- weights
    """,
    "gpt2_export": """
        errors <- plain_file <- weights;
        weights <- precision;
        progress, weights <- freeze;
        precision, progress, temporary <- graphs;
        freeze, graphs <- folder;
        folder, telemetry <- verification;
        folder <- hub;
        verification <- pipeline;
        hub, pipeline <- cli
    """,
    "gpt2_runtime": """
        precisions <- folder, providers;
        errors <- arguments <- settings <- sampling; arguments <- folder, providers;
        folder <- tokenizer;
        folder, providers <- graphs;
        graphs, sampling <- engine;
        engine <- generation, scoring;
        tokenizer <- generation;
        generation, scoring, tokenizer <- text;
        text <- batch_file, diagnostics, explain, lm_eval;
        batch_file, diagnostics, explain <- cli
    """,
}
NEVER = {
    # huggingface_hub is loaded only when needed: a local folder does not wait for it.
    "gpt2_model": {"gpt2_export", "gpt2_runtime", "transformers", "onnx", "onnxruntime", "huggingface_hub"},
    "gpt2_export": {"gpt2_runtime", "transformers", "huggingface_hub"},
    "gpt2_runtime": {
        "gpt2_model", "gpt2_export", "torch", "transformers", "onnx", "safetensors", "tokenizers", "lm_eval",
    },
}  # fmt: skip
# Adapters to packages that are not installed here: only their source is read, and nothing else may load them.
ADAPTERS = {"gpt2_runtime": ("lm_eval",)}

# Imports each room of a package alone, with all its modules but without the package's __init__.
PROGRAM = """
import importlib, importlib.util, json, pkgutil, sys, types

package, *left_out = sys.argv[1:]
places = importlib.util.find_spec(package).submodule_search_locations
siblings = {}
for module in pkgutil.iter_modules(places):
    if module.name in left_out:
        continue
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = list(places)
    room = importlib.import_module(f"{package}.{module.name}")
    for each in pkgutil.iter_modules(getattr(room, "__path__", [])):
        importlib.import_module(f"{package}.{module.name}.{each.name}")
    loaded = {name.split(".")[1] for name in sys.modules if name.startswith(f"{package}.")}
    siblings[module.name] = sorted(loaded - {module.name})
print(json.dumps({"siblings": siblings, "packages": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


@cache
def loaded_by(package: str, place: Path | None = None) -> dict[str, Any]:
    """What a package's rooms load, in an interpreter of its own."""
    command = [sys.executable, "-c", PROGRAM, package, *ADAPTERS.get(package, ())]
    result = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def may_load(picture: str) -> dict[str, set[str]]:
    """Each module of a picture of arrows, and everything it may load.

    >>> {name: sorted(below) for name, below in may_load("a <- b; b, c <- d").items()}
    {'a': [], 'b': ['a'], 'c': [], 'd': ['a', 'b', 'c']}
    """
    below: dict[str, set[str]] = {}
    for chain in picture.split(";"):
        links = [[name.strip() for name in link.split(",")] for link in chain.split("<-")]
        for name in (name for link in links for name in link):
            below.setdefault(name, set())
        for lower, upper in pairwise(links):
            for name in upper:
                below[name].update(lower)
    for _ in below:  # the longest chain has no more links than there are names
        for name in below:
            below[name].update(*(below[lower] for lower in below[name]))
    return dict(sorted(below.items()))


def against(arrows: str, siblings: dict[str, list[str]]) -> list[str]:
    """The imports that no arrow allows, and the modules missing from the picture."""
    allowed = may_load(arrows)
    homeless = [f"{name} is not in the picture" for name in siblings if name not in allowed]
    known = {name: set(loaded) for name, loaded in siblings.items() if name in allowed}
    wrong = [f"{name} -> {to}" for name, loaded in known.items() for to in sorted(loaded - allowed[name])]
    return homeless + wrong


@pytest.mark.parametrize("package", ARROWS)
def test_imports_inside_a_package_run_one_way(package: str) -> None:
    assert against(ARROWS[package], loaded_by(package)["siblings"]) == []


@pytest.mark.parametrize(("package", "module"), [(package, name) for package in ADAPTERS for name in ADAPTERS[package]])
def test_an_adapter_imports_only_what_is_below_it(package: str, module: str) -> None:
    (place,) = PACKAGES.glob(f"*/src/{package}/{module}.py")
    imports = [
        node for node in ast.walk(ast.parse(place.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    inside = {name.split(".")[1] for node in imports if (name := node.module or "").startswith(f"{package}.")}
    assert inside
    assert inside <= may_load(ARROWS[package])[module]


@pytest.mark.parametrize("package", NEVER)
def test_a_package_loads_nothing_that_it_must_do_without(package: str) -> None:
    assert NEVER[package].isdisjoint(loaded_by(package)["packages"])


def test_a_room_is_small_and_loads_nothing_by_itself() -> None:
    """What a room's __init__ imported, every start would wait for."""
    rooms = [path.parent for path in PACKAGES.glob("*/src/*/*/__init__.py")]
    assert len(rooms) > 15
    assert [str(room) for room in rooms if (room / "__init__.py").stat().st_size] == []
    assert [str(room) for room in rooms if len(list(room.glob("*.py"))) > 15] == []


def test_export_is_built_on_the_model() -> None:
    assert "gpt2_model" in loaded_by("gpt2_export")["packages"]


def test_a_picture_has_no_circle() -> None:
    for picture in ARROWS.values():
        assert [name for name, below in may_load(picture).items() if name in below] == []


def test_a_wrong_arrow_a_new_module_and_a_forbidden_package_are_caught(tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    (house / "__init__.py").write_text("from house import cellar, roof")
    (house / "cellar.py").write_text("def warm():\n    from house import roof")
    (house / "wall.py").write_text("from house.roof import tiles")
    (house / "roof.py").write_text("import statistics\ntiles = 4")
    (house / "shed.py").write_text("")
    loaded = loaded_by("house", tmp_path)
    assert against("cellar <- wall <- roof", loaded["siblings"]) == ["shed is not in the picture", "wall -> roof"]
    assert "statistics" in loaded["packages"]


# Extras are imported where they are used; onnxruntime is one because two distributions provide it.
EXTRAS = {"gpt2_runtime": {"onnxruntime", "lm_eval", "tqdm"}}


def imported_by(package: str) -> set[str]:
    """The third-party packages that a package's source imports, at any level."""
    result = set()
    for path in PACKAGES.glob(f"*/src/{package}/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                result |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                result.add(node.module)
    return {name.partition(".")[0] for name in result} - {package, *sys.stdlib_module_names}


@pytest.mark.parametrize("package", ARROWS)
def test_a_package_imports_what_it_declares(package: str) -> None:
    """All three are installed together, so a dependency that one forgot would be there by chance."""
    names = [Requirement(pin).name for pin in project(package.removeprefix("gpt2_"))["dependencies"]]
    declared = {name.replace("-", "_") for name in names}
    assert imported_by(package) - EXTRAS.get(package, set()) <= declared


def project(name: str) -> dict[str, Any]:
    declared: dict[str, Any] = tomllib.loads((PACKAGES / name / "pyproject.toml").read_text(encoding="utf-8"))
    return declared["project"]


def test_the_three_packages_have_one_version() -> None:
    declared = {name: project(name)["version"] for name in ("model", "export", "runtime")}
    versions = {name: import_module(f"gpt2_{name}").__version__ for name in declared}
    assert len(set(declared.values())) == 1, declared
    assert versions == declared


def test_the_packages_are_pinned_to_each_others_version() -> None:
    version = project("model")["version"]
    for name in ("model", "export", "runtime"):
        metadata = project(name)
        extras = [pin for pins in metadata.get("optional-dependencies", {}).values() for pin in pins]
        ours = [pin for pin in [*metadata["dependencies"], *extras] if pin.startswith("gpt2-")]
        assert ours == ([f"gpt2-model=={version}"] if name == "export" else []), name
