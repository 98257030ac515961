"""On stress weights every mistake in the formula is refused, even if the checkpoint's own weights hide it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gpt2_export.errors import StorageError
from gpt2_export.freeze.freeze import WEIGHTS
from gpt2_export.graphs import export
from gpt2_export.graphs.kinds import KINDS
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.verification import backends, stress
from gpt2_export.verification.parity import verify
from gpt2_export.verification.sweep import cases
from gpt2_export.weights import safetensors_file
from gpt2_model import GPT2, GPT2Config, KeyValue
from gpt2_model.gpt2 import CausalSelfAttention

MakeModel = Callable[..., GPT2]
Freeze = Callable[[GPT2, Path], None]


def test_the_copy_has_the_same_graphs_and_places_and_is_removed_afterwards(made_copy: Path) -> None:
    before = sorted(path.name for path in made_copy.iterdir())
    with stress.folder(made_copy) as copy:
        assert copy.parent == made_copy
        assert safetensors_file.places(copy / WEIGHTS) == safetensors_file.places(made_copy / WEIGHTS)
        for kind in KINDS:
            assert (copy / kind.file).read_bytes() == (made_copy / kind.file).read_bytes()
        own, other = (GPT2.from_pretrained(place) for place in (made_copy, copy))
        assert not any(torch.equal(a, b) for a, b in zip(own.parameters(), other.parameters(), strict=True))
    assert sorted(path.name for path in made_copy.iterdir()) == before


def test_a_full_disk_is_refused_by_name(made_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(StorageError, match="bytes"), stress.folder(made_copy):
        pass


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"scale_attn_weights": False},
        {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "n_layer": 6},
        {"layer_norm_epsilon": 1e-12},
        {"layer_norm_epsilon": 1e-2, "tie_word_embeddings": False},
        {"n_embd": 6, "n_head": 6, "n_inner": 3},
        {"n_embd": 256, "n_layer": 12},
    ],
    ids=str,
)
def test_float32_is_within_a_tenth_of_the_limit(
    make_model: MakeModel, freeze_network: Freeze, tmp_path: Path, fields: dict[str, Any]
) -> None:
    freeze_network(make_model(**fields), tmp_path)
    sweep = cases(vocab_size=300, n_positions=24)
    (figures,) = stress.compare(tmp_path, [backends.Backend(name="torch", open=backends.scratch)], sweep).values()
    assert 0 < figures["max_difference"] < figures["tolerance"] / 10


def test_inputs_of_softmax_and_activation_are_about_one_at_any_scale() -> None:
    config = GPT2Config(n_embd=64, n_head=4, n_layer=3, scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True)
    x = np.random.default_rng(0).standard_normal((64, config.n_embd))
    for layer in range(config.n_layer):
        weight = stress.tensor(config, f"transformer.h.{layer}.attn.c_attn.weight", (64, 192))
        q, k, _ = np.split(x @ weight, 3, axis=-1)
        scores = q[:, :16] @ k[:, :16].T * config.attention_scale(layer)
        assert 1 < scores.std() < 4


def exact_gelu(proto: onnx.GraphProto) -> None:
    for node in proto.node:
        if node.op_type == "Gelu":
            node.attribute[0].s = b"none"


def test_a_mistake_that_the_checkpoints_weights_hide_is_refused(
    make_model: MakeModel, freeze_network: Freeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    for parameter in model.parameters():
        parameter.data *= 0.01
    freeze_network(model, tmp_path)
    path = tmp_path / PORTABLE.file
    export.write(export.build(PORTABLE, model.config, tmp_path / WEIGHTS), path)
    assert verify(tmp_path)["stress"].keys() >= {f"{b.name}, stress weights" for b in backends.available(tmp_path)}
    proto = onnx.load(path, load_external_data=False)
    exact_gelu(proto.graph)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(
        Exception, match=r"same as its checkpoint: onnxruntime .* portable, stress weights: differs by"
    ) as caught:
        verify(tmp_path)
    hidden = [figures["max_logit_difference"] for figures in caught.value.report["backends"].values()]  # type: ignore[attr-defined]
    assert max(hidden) < 1e-6


def test_the_yardstick_itself_is_refused_if_wrong(made_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = CausalSelfAttention.attend

    def forgetful(self: Any, q: Any, k: Any, v: Any, past: KeyValue, mask: Any) -> Any:
        """Reads the cache's values off by a thousandth: the float64 reference has no cache, torch's float32 run has."""
        return attend(self, q, k, v, KeyValue(past.key, past.value * 1.001), mask)

    monkeypatch.setattr(CausalSelfAttention, "attend", forgetful)
    with pytest.raises(Exception, match=r"checkpoint: torch .*, stress weights: differs by"):
        verify(made_copy)
