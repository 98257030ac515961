"""What the tests between the packages share; it imports none of them, for `tests/cuda` has only the runtime."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.register_assert_rewrite("goldens")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--checkpoint", metavar="DIR", help="a published GPT-2 checkpoint, for the goldens")


@pytest.fixture(scope="session")
def tokenizer_dir() -> Path:
    """The folder with GPT-2's own vocab.json and merges.txt."""
    named = os.environ.get("GPT2_TOKENIZER_DIR")
    if not named:
        pytest.skip("GPT2_TOKENIZER_DIR names no folder with GPT-2's own vocab.json and merges.txt")
    return Path(named)


Shared = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes a folder under a name, once for all workers of a run: an export takes as long as many a file of tests."""
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"

    def make(name: str, write: Callable[[Path], None]) -> Path:
        folder, partial = place / name, place / f"{name} partial"
        place.mkdir(exist_ok=True)
        with FileLock(place / f"{name}.lock"):
            if not folder.exists():
                partial.mkdir()
                write(partial)
                partial.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def demo_folder(shared: Shared) -> Path:
    """The demo model's folder, unverified: a model of real text, which repeats itself as a random one does not."""
    from gpt2_export import add_graph, freeze_only

    def write(place: Path) -> None:
        freeze_only("demo", place / "folder")
        add_graph(place / "folder")

    return shared("demo", write) / "folder"


class Made(NamedTuple):
    """A checkpoint as transformers saved it, and the folder that was made of it."""

    source: Path
    folder: Path


@pytest.fixture(scope="session")
def made(shared: Shared) -> Callable[[str], Made]:
    """Makes the folder of a variant (see `checkpoints.py`), once a run and without verifying: that is done here."""
    from checkpoints import VARIANTS, network
    from gpt2_export import add_graph, freeze_only

    def make(variant: str) -> Made:
        def write(place: Path) -> None:
            network(**VARIANTS[variant]).save_pretrained(place / "source")
            freeze_only(place / "source", place / "folder")
            add_graph(place / "folder")

        place = shared(variant, write)
        return Made(source=place / "source", folder=place / "folder")

    return make
