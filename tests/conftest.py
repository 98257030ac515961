"""Fixtures of the tests between the packages; it imports none of them, because `tests/cuda` has only the runtime."""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from shared import Shared

pytest.register_assert_rewrite("goldens")

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import onnxruntime themselves


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
def shared(tmp_path_factory: pytest.TempPathFactory) -> "Shared":
    """Makes a folder by name, once for all workers of a run."""
    from shared import shared_below

    return shared_below(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session", autouse=True)
def _cached_traces() -> Iterator[None]:
    if find_spec("gpt2_export") is None:
        yield
        return
    from trace_cache import cached, traced

    with traced(cached):
        yield


@pytest.fixture(scope="session")
def demo_folder(shared: "Shared") -> Path:
    """The demo model's folder, unverified: a trained model, which repeats itself as a random one does not."""
    from gpt2_export import export_graphs, freeze_checkpoint

    def write(place: Path) -> None:
        freeze_checkpoint("demo", place / "folder")
        export_graphs(place / "folder")

    return shared("demo", write) / "folder"


class Made(NamedTuple):
    """A checkpoint as transformers saved it, and the folder made from it."""

    source: Path
    folder: Path


@pytest.fixture(scope="session")
def made(shared: "Shared") -> Callable[[str], Made]:
    """Makes a variant's folder (see `checkpoints.py`), once per run and unverified: the tests do that."""
    from checkpoints import EXPLAINED, VARIANTS, network
    from gpt2_export import freeze_checkpoint
    from gpt2_export.graphs.explain import EXPLAIN
    from gpt2_export.graphs.kinds import KINDS
    from trace_cache import add_graphs

    def make(variant: str) -> Made:
        def write(place: Path) -> None:
            network(**VARIANTS[variant]).save_pretrained(place / "source")
            freeze_checkpoint(place / "source", place / "folder")
            add_graphs(place / "folder", [kind for kind in KINDS if kind is not EXPLAIN or variant in EXPLAINED])

        place = shared(variant, write)
        return Made(source=place / "source", folder=place / "folder")

    return make


@pytest.fixture(scope="session")
def full_size(shared: "Shared") -> Made:
    """124M weights from transformers' initialiser, and their folder without the explain graph.

    No test reads that, and with twelve layers it takes 20 seconds; the demo is made with it.
    """
    import torch
    from gpt2_export import freeze_checkpoint
    from gpt2_export.graphs.portable import PORTABLE
    from gpt2_export.graphs.serving import SERVING
    from trace_cache import add_graphs
    from transformers import GPT2Config, GPT2LMHeadModel

    def write(place: Path) -> None:
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config()).save_pretrained(place / "source")
        freeze_checkpoint(place / "source", place / "folder")
        add_graphs(place / "folder", [PORTABLE, SERVING])

    place = shared("full size", write)
    return Made(source=place / "source", folder=place / "folder")
