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


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's folder, unverified: a model of real text, which repeats itself as a random one does not."""
    from gpt2_export import add_graph, freeze_only

    folder = tmp_path_factory.mktemp("demo") / "folder"
    freeze_only("demo", folder)
    add_graph(folder)
    return folder


class Made(NamedTuple):
    """A checkpoint as transformers saved it, and the folder that was made of it."""

    source: Path
    folder: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Makes the folder of a variant (see `checkpoints.py`), once a session and without verifying: that is done here."""
    from functools import cache

    from checkpoints import VARIANTS, network
    from gpt2_export import add_graph, freeze_only

    @cache
    def make(variant: str) -> Made:
        place = tmp_path_factory.mktemp("made")
        found = Made(source=place / "source", folder=place / "folder")
        network(**VARIANTS[variant]).save_pretrained(found.source)
        freeze_only(found.source, found.folder)
        add_graph(found.folder)
        return found

    return make
