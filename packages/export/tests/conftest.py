"""Checkpoints on disk whose weights expose every mistake, one made folder shared by all tests, and the command."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from gpt2_export import make, quantize, telemetry
from gpt2_export.cli.command import main
from gpt2_export.freeze.freeze import WEIGHTS, write_json
from gpt2_export.graphs import export
from gpt2_export.graphs.kinds import KINDS
from gpt2_export.weights import safetensors_file
from gpt2_model import GPT2, GPT2Config
from gpt2_model.weights import stored_tensors
from hypothesis import settings
from safetensors.torch import save_file
from shared import Shared, shared_below
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from trace_cache import cached, traced, uncached

telemetry.switch_off()  # some tests import onnxruntime themselves

# The same examples on every run: a failure can be repeated, and a pass means the same everywhere.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=25)
settings.load_profile("repeatable")

# Verification runs transformers if it is installed, which tests/ covers. These tests run without it everywhere.
sys.modules["transformers"] = None  # type: ignore[assignment]

torch.set_num_threads(1)  # these networks are too small to gain from a second thread

# All sizes differ, so that no axis can be mistaken for another; two heads, two layers.
SIZES = {"vocab_size": 300, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}

MakeModel = Callable[..., GPT2]
Freeze = Callable[[GPT2, Path], None]
MakeCheckpoint = Callable[..., Path]
Run = Callable[..., Result]
Stage = tuple[str, int, int]

# Runs command lines in one process (torch takes seconds to import) and prints each one's outcome.
DRIVER = """
import json, sys
sys.modules["transformers"] = None
from click.testing import CliRunner
from gpt2_export.cli.command import main
for arguments in json.load(sys.stdin):
    ran = CliRunner().invoke(main, arguments)
    raised = None if isinstance(ran.exception, SystemExit | None) else repr(ran.exception)
    print(json.dumps({"code": ran.exit_code, "out": ran.stdout, "err": ran.stderr, "raised": raised}), flush=True)
"""


def make_model_of_any_size(**fields: Any) -> GPT2:
    """A network in eval mode with weights of std 0.3 and no parameter at its neutral value."""
    model = GPT2(GPT2Config(**(SIZES | fields))).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            parameter.normal_(centre, 0.3, generator=rng)
    return model


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    return make_model_of_any_size


@pytest.fixture(scope="session")
def model() -> GPT2:
    """Shared and read-only; a test that changes a network makes its own."""
    return make_model_of_any_size()


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory, model: GPT2) -> MakeCheckpoint:
    """Writes a checkpoint folder: the tensors of `model` under transformers' names, unless `tensors` is given."""

    def make(
        *,
        model: GPT2 = model,
        tensors: Mapping[str, Tensor] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        (folder / "config.json").write_text(json.dumps(model.config.to_hf() | dict(config or {})))
        save_file(dict(stored_tensors(model) if tensors is None else tensors), folder / "model.safetensors")
        return folder

    return make


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level vocab.json and merges.txt of 300 tokens, the last of them <|endoftext|>."""
    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog's back, then there it lies"] * 9, 299)
    tokenizer.save_model(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    vocab["<|endoftext|>"] = len(vocab)  # last, as in GPT-2's own; the trainer would put it first
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes a folder by name, once for all workers of a run."""
    return shared_below(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def source(shared: Shared, make_checkpoint: MakeCheckpoint, vocabulary: Path) -> Path:
    """A whole checkpoint, read-only: weights, config, tokenizer."""

    def write(place: Path) -> None:
        shutil.copytree(make_checkpoint(config={"bos_token_id": 299, "eos_token_id": 299}), place / "checkpoint")
        shutil.copytree(vocabulary, place / "checkpoint", dirs_exist_ok=True)

    return shared("source", write) / "checkpoint"


@pytest.fixture(scope="session")
def made(shared: Shared, source: Path) -> Path:
    """`source`, made; read-only."""

    def write(place: Path) -> None:
        stages: list[Stage] = []
        with traced(uncached):  # its bytes are compared
            make(source, place / "out", progress=lambda *stage: stages.append(stage))
        (place / "stages.json").write_text(json.dumps(stages))

    return shared("made", write) / "out"


@pytest.fixture(scope="session")
def stages(made: Path) -> list[Stage]:
    """The calls of progress while `made` was made."""
    return [(name, done, total) for name, done, total in json.loads((made.parent / "stages.json").read_text())]


@pytest.fixture(scope="session")
def quantized(shared: Shared, made: Path) -> Path:
    """`made` with every precision, read-only; with no limit on the loss of so small a network."""

    def write(place: Path) -> None:
        quantize(shutil.copytree(made, place / "out"), ["fp16", "int8", "int4"], max_ppl_increase=1000)

    return shared("quantized", write) / "out"


@pytest.fixture(scope="session", autouse=True)
def _cached_traces() -> Iterator[None]:
    with traced(cached):
        yield


@pytest.fixture
def _uncached_traces() -> Iterator[None]:
    """For tests of tracing itself."""
    with traced(uncached):
        yield


@pytest.fixture
def made_copy(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` that a test may change."""
    copy = tmp_path / "made"
    copy.mkdir()
    for file in made.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture(scope="session")
def freeze_network() -> Freeze:
    """Writes only what export needs: weights and config."""

    def freeze_network(model: GPT2, folder: Path) -> None:
        tensors = {name: tensor.numpy() for name, tensor in stored_tensors(model).items()}
        safetensors_file.write(
            folder / WEIGHTS, {name: safetensors_file.Form(t.shape) for name, t in tensors.items()}, tensors.values()
        )
        write_json(folder / "config.json", model.config.to_hf())

    return freeze_network


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: str(kind.name))
def kind(request: pytest.FixtureRequest) -> export.Kind:
    """Each kind of graph, for tests that hold for all."""
    found: export.Kind = request.param
    return found


@pytest.fixture
def run() -> Run:
    """Runs the command in this process; an exception that it does not handle is raised."""

    def run(*arguments: str | Path) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def refusal(run: Run) -> Callable[..., str]:
    """Runs a command that must fail and returns its message: the last line of stderr, after progress lines only."""

    def refusal(*arguments: str | Path) -> str:
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        assert result.stdout == ""
        *before, last = result.stderr.splitlines()
        assert all(": done in " in line for line in before), result.stderr
        assert last.startswith("error: ")
        return last.removeprefix("error: ")

    return refusal


@pytest.fixture(scope="session")
def run_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Runs command lines in a process of their own, for settings that are read at start."""

    def run_elsewhere(*lines: list[str], env: Mapping[str, str]) -> list[dict[str, Any]]:
        finished = subprocess.run(
            [sys.executable, "-c", DRIVER],
            input=json.dumps(lines),
            capture_output=True,
            text=True,
            env=os.environ | env,
            timeout=300,
            check=True,
            cwd=tmp_path_factory.mktemp("elsewhere"),
        )
        return [json.loads(line) for line in finished.stdout.splitlines()]

    return run_elsewhere
