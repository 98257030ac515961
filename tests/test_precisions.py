"""int8 and int4 at the published model's size: sizes, loss, and no row affects another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import backends
import gpt2_export
import numpy as np
import onnx
import pytest
import torch
from checkpoints import VARIANTS, network
from gpt2_export.graphs import export, kinds
from gpt2_export.graphs.serving import SERVING
from gpt2_export.precision.precision import INT4, INT8, PRECISIONS, Precision
from gpt2_export.verification.metrics import kl
from gpt2_model import GPT2Config
from gpt2_runtime import Session
from sweep import Array, Step
from transformers import GPT2LMHeadModel

WEIGHTS = "model.safetensors"
TOKENS = 128
OUTLIERS = [5, 200, 411, 700]  # channels

# Limits of the mean KL divergence from float32, in nats. Without the rescaling, outliers exceed theirs.
LIMITS = {"int8": 1e-4, "int4": 1.2e-2, "int8, outliers": 1e-3}


def changed(source: Path, change: Callable[[str, torch.Tensor], None]) -> GPT2LMHeadModel:
    made = GPT2LMHeadModel.from_pretrained(source)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            change(name, parameter)
    return made


def with_outliers(name: str, parameter: torch.Tensor) -> None:
    """Non-neutral biases and norms, and in each norm some channels 30 times the others."""
    rng = torch.Generator().manual_seed(len(name))
    if ".ln_" in name:
        parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.1)
        if name.endswith("weight"):
            parameter[OUTLIERS] *= 30
    elif name.endswith("bias"):
        parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.02)


def frozen(made: GPT2LMHeadModel, place: Path) -> Path:
    made.save_pretrained(place / "source")
    gpt2_export.freeze_checkpoint(place / "source", place / "folder")
    return place / "folder"


class Large:
    """Folders of one config, whose graph is traced once: every tensor is at the same place in each."""

    def __init__(self, full_size: Any, place: Path) -> None:
        self.source = full_size.source
        self.config = GPT2Config()
        self.folders = {"plain": place}
        for file in (WEIGHTS, SERVING.file):
            (place / file).hardlink_to(full_size.folder / file)  # others read it: additions go beside it
        self.base = export.base(SERVING, self.config, place / WEIGHTS)

    def add(self, name: str, precision: Precision, keep: tuple[str, ...] = ()) -> Path:
        """Adds a precision to the folder of that name."""
        folder = self.folders[name]
        weights = precision.freeze(self.config, folder / WEIGHTS, folder, keep)
        kinds.write_all({SERVING: self.base}, self.config, folder, (precision, weights))
        return folder

    def lost(self, name: str, precision: Precision) -> float:
        """Mean KL divergence from the float32 graph."""
        ids = np.random.default_rng(3).integers(self.config.vocab_size, size=(1, TOKENS))
        mask, folder = np.ones_like(ids), self.folders[name]
        files = (SERVING.file, kinds.file_of(SERVING, precision))
        a, b = (backends.serving(folder / file, 1024)(ids, mask, None)[0][0] for file in files)
        return float(kl(a, b).mean())


@pytest.fixture(scope="module")
def at_full_size(full_size: Any, tmp_path_factory: pytest.TempPathFactory) -> Large:
    return Large(full_size, tmp_path_factory.mktemp("large"))


@pytest.mark.parametrize(
    ("precision", "share"),
    [pytest.param(INT8, 0.285, id="int8"), pytest.param(INT4, 0.2, id="int4", marks=pytest.mark.nightly)],
)
def test_size_and_loss_at_full_size(at_full_size: Large, precision: Precision, share: float) -> None:
    folder = at_full_size.add("plain", precision)

    def size(*files: str) -> int:
        return sum((folder / file).stat().st_size for file in files)

    whole = size(WEIGHTS, SERVING.file)
    assert size(precision.weights, kinds.file_of(SERVING, precision)) <= share * whole
    assert at_full_size.lost("plain", precision) <= LIMITS[precision.name]


def test_outliers_cost_int8_little_with_the_rescaling_and_too_much_without(
    at_full_size: Large, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_full_size.folders["outliers"] = frozen(changed(at_full_size.source, with_outliers), tmp_path)
    kinds.write_all({SERVING: at_full_size.base}, at_full_size.config, at_full_size.folders["outliers"])
    at_full_size.add("outliers", INT8)
    assert at_full_size.lost("outliers", INT8) <= LIMITS["int8, outliers"]
    monkeypatch.setattr(
        "gpt2_export.precision.smoothing.factors", lambda weight, bias, reader: np.ones(len(weight), np.float32)
    )
    at_full_size.add("outliers", INT8)
    assert at_full_size.lost("outliers", INT8) > LIMITS["int8, outliers"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every precision."""
    folder = frozen(network(**VARIANTS["as published"]), tmp_path_factory.mktemp("small"))
    config = GPT2Config(vocab_size=97, n_positions=80, n_embd=32, n_layer=2, n_head=4)
    bases, _ = kinds.trace_all(config, folder / WEIGHTS, kinds=[SERVING])
    kinds.write_all(bases, config, folder)
    for precision in PRECISIONS.values():
        kinds.write_all(bases, config, folder, (precision, precision.freeze(config, folder / WEIGHTS, folder)))
    return folder


def interference(step: Step) -> float:
    """How much a row's logits change when another row is read beside it."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(97, size=(2, 1, 20))
    mask = np.ones((1, 20), np.int64)
    alone: Array = step(ours, mask, None)[0][0]
    beside: Array = step(np.concatenate([theirs, ours]), mask.repeat(2, axis=0), None)[0][1]
    return float(np.abs(alone - beside).max())


def with_one_scale_for_all_tokens(path: Path) -> bytes:
    """Classic dynamic quantisation: activations share one scale for the whole tensor (onnxruntime#10322)."""
    model = onnx.load(path)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            x, made = node.input[0], [f"{node.output[0]}.{part}" for part in ("q", "scale", "zero", "x")]
            nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [x], made[:3]))
            nodes.append(onnx.helper.make_node("DequantizeLinear", made[:3], [made[3]]))
            node.input[0] = made[3]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=list(PRECISIONS))
def test_no_row_affects_another(small: Path, precision: Precision) -> None:
    assert interference(backends.serving(small / kinds.file_of(SERVING, precision), 80)) == 0


def test_one_scale_for_all_tokens_is_detected(small: Path) -> None:
    mutant = with_one_scale_for_all_tokens(small / kinds.file_of(SERVING, INT8))
    assert interference(backends.serving(mutant, 80)) > 1e-2


def test_the_runtime_opens_every_precision_that_make_writes(tmp_path: Path) -> None:
    network(**VARIANTS["as published"]).save_pretrained(tmp_path / "source")
    gpt2_export.make(tmp_path / "source", tmp_path / "out", precision=list(PRECISIONS), max_ppl_increase=1000)
    ids = [5, 17, 90, 3]
    for name in ("fp32", *PRECISIONS):
        session = Session.open(tmp_path / "out", precision=name)
        logits, _ = session.step([ids], session.empty_cache(), 4)
        assert np.isfinite(logits).all()
