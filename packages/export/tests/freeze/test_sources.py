"""Checkpoints of wrappers, trainers and other programs freeze exactly with a warning, or are refused with a remedy."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from gpt2_export.freeze.freeze import SPECIAL, freeze
from gpt2_model import GPT2, GPT2Config, GPT2Error, TensorError
from gpt2_model.checkpoint import open_checkpoint
from gpt2_model.weights import stored_tensors
from safetensors.torch import load_file, save_file
from torch import Tensor

Run = Callable[..., Result]
Refusal = Callable[..., str]
MakeCheckpoint = Callable[..., Path]
Tensors = dict[str, Tensor]
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def warnings_of(ran: Result) -> list[str]:
    assert ran.exit_code == 0, ran.output
    return [line.removeprefix("warning: ") for line in ran.stderr.splitlines() if line.startswith("warning: ")]


def in_manifest(folder: Path) -> list[str]:
    actual: list[str] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["warnings"]
    return actual


def linear(tensors: Tensors) -> Tensors:
    return {name: tensor.t().contiguous() if name.endswith(MATRICES) else tensor for name, tensor in tensors.items()}


DISGUISES: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "DataParallel": (lambda t: {f"module.{name}": each for name, each in t.items()}, "a prefix left by DataParallel"),
    "torch.compile": (
        lambda t: {f"_orig_mod.{name}": each for name, each in t.items()},
        "a prefix left by torch.compile",
    ),
    "both": (
        lambda t: {f"module._orig_mod.{name}": each for name, each in t.items()},
        "with module._orig_mod., a prefix",
    ),
    "another head": (lambda t: t | {"v_head.summary.weight": torch.ones(1, 16)}, "v_head.summary.weight was left out"),
    "Linear": (linear, "each was transposed"),
    "padded": (
        lambda t: t | {"transformer.wte.weight": torch.cat((t["transformer.wte.weight"], torch.ones(20, 16)))},
        "the embedding has 320 rows, config.json's vocab_size is 300",
    ),
    "float64": (
        lambda t: {name: each.double() for name, each in t.items()},
        "28 tensors were float64: rounded to float32, which changed none of their values",
    ),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_disguised_checkpoint_freezes_to_the_same_weights_and_the_manifest_lists_the_warnings(
    disguise: str, run: Run, make_checkpoint: MakeCheckpoint, model: GPT2, tmp_path: Path
) -> None:
    wear, expected_text = DISGUISES[disguise]
    warnings = warnings_of(run("freeze", make_checkpoint(tensors=wear(stored_tensors(model))), tmp_path / "out"))
    assert any(expected_text in warning for warning in warnings), warnings
    assert warnings == in_manifest(tmp_path / "out")
    actual, expected = load_file(tmp_path / "out" / "model.safetensors"), stored_tensors(model)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert GPT2Config.from_hf(config) == model.config


def test_a_linear_model_without_biases_is_frozen_with_zeros(
    make_checkpoint: MakeCheckpoint, model: GPT2, tmp_path: Path
) -> None:
    tensors = {name: each for name, each in linear(stored_tensors(model)).items() if not name.endswith(".bias")}
    warnings = freeze(open_checkpoint(make_checkpoint(tensors=tensors)), tmp_path)
    assert any("there are no biases" in warning for warning in warnings)
    actual = load_file(tmp_path / "model.safetensors")
    for name, expected in stored_tensors(model).items():
        assert torch.equal(actual[name], expected * (not name.endswith(".bias"))), name


def test_nanogpts_checkpoint_is_frozen_with_its_own_config(run: Run, model: GPT2, tmp_path: Path) -> None:
    args = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 24, "bias": True, "vocab_size": 300}
    source = tmp_path / "out-shakespeare"
    source.mkdir()
    tensors = {f"_orig_mod.{name}": tensor for name, tensor in linear(stored_tensors(model)).items()}
    torch.save({"model": tensors, "model_args": args, "iter_num": 5}, source / "ckpt.pt")
    ran = run("freeze", source, tmp_path / "frozen", "--allow-pickle")
    assert any("does not say which GELU" in warning for warning in warnings_of(ran))
    actual, expected = load_file(tmp_path / "frozen" / "model.safetensors"), stored_tensors(model)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    config = json.loads((tmp_path / "frozen" / "config.json").read_text(encoding="utf-8"))
    assert config["activation_function"] == "gelu"
    assert config["n_positions"] == 24


def test_float64_weights_are_rounded_and_the_warning_says_by_how_much(
    make_checkpoint: MakeCheckpoint, model: GPT2, tmp_path: Path
) -> None:
    tensors = {name: tensor.double() * (1 + 1e-9) for name, tensor in stored_tensors(model).items()}
    tensors["transformer.wte.weight"][0, 0] = 1 + 2.0**-25  # halfway between two float32 is 2**-24
    warnings = freeze(open_checkpoint(make_checkpoint(tensors=tensors)), tmp_path)
    expected_text = "28 tensors were float64: rounded to float32, which changed no value by more than 3.0e-08 of itself"
    assert expected_text in warnings
    actual = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(actual[name], tensor.float()) for name, tensor in tensors.items())


def test_a_float64_value_that_float32_rounds_to_zero_is_reported(
    make_checkpoint: MakeCheckpoint, model: GPT2, tmp_path: Path
) -> None:
    tensors = stored_tensors(model) | {"transformer.ln_f.bias": torch.full((16,), 1e-300, dtype=torch.float64)}
    warnings = freeze(open_checkpoint(make_checkpoint(tensors=tensors)), tmp_path)
    assert "1 tensor was float64: rounded to float32, which changed no value by more than 1.0e+00 of itself" in warnings


@pytest.mark.parametrize(
    ("value", "expected_text"),
    [
        (1e300, "has 1 of 16 values beyond float32; the weights are written in float32"),
        (float("inf"), "has 1 of 16 values NaN or infinite"),
    ],
)
def test_a_float64_value_that_float32_cannot_hold_is_refused(
    make_checkpoint: MakeCheckpoint, model: GPT2, tmp_path: Path, value: float, expected_text: str
) -> None:
    bias = torch.zeros(16, dtype=torch.float64)
    bias[3] = value
    with pytest.raises(TensorError) as caught:
        freeze(
            open_checkpoint(make_checkpoint(tensors=stored_tensors(model) | {"transformer.ln_f.bias": bias})), tmp_path
        )
    assert f"transformer.ln_f.bias {expected_text}" in str(caught.value)


@pytest.fixture
def place(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_checkpoint(), tmp_path / "place"))


def as_pointer(folder: Path) -> Path:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 5\n")
    return folder


def as_trainers_output(folder: Path) -> Path:
    outer = folder.parent / "trained"
    shutil.copytree(folder, outer / "checkpoint-500")
    shutil.copytree(folder, outer / "checkpoint-1000")
    return outer


def as_gguf(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "gpt2.f16.gguf")
    return folder


def as_adapter(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    return folder


def as_unmerged(folder: Path) -> Path:
    save_file(
        {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": torch.ones(2)}, folder / "model.safetensors"
    )
    return folder


def as_classifier(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["GPT2ForSequenceClassification"]}))
    return folder


def as_quantized(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_8bit": True}}))
    return folder


def as_deepspeed(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    (folder / "global_step500").mkdir()
    return folder


def as_pipe(folder: Path) -> Path:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    return folder


def as_endless(folder: Path) -> Path:
    (folder / "generation_config.json").symlink_to("/dev/zero")
    return folder


REFUSED: dict[Callable[[Path], Path], str] = {
    as_pointer: "is a Git LFS pointer, not the file itself; run `git lfs pull` in ",
    as_trainers_output: "it is a trainer's output, its newest checkpoint is checkpoint-1000; name that folder",
    as_gguf: "GGUF, llama.cpp's format; name the checkpoint it was made from",
    as_adapter: "a LoRA adapter; merge it into its base model first (merge_and_unload in PEFT",
    as_unmerged: "holds an adapter that is not merged",
    as_classifier: "is a classifier, GPT2ForSequenceClassification: it has no language model head",
    as_quantized: "quantization_config is {'load_in_8bit': True}: the weights are quantized",
    as_deepspeed: "a DeepSpeed checkpoint; run its zero_to_fp32.py on it first",
    as_pipe: "config.json is a named pipe, not a plain file",
    as_endless: "generation_config.json is a device, not a plain file",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__.removeprefix("as_"))
def test_an_unsupported_source_is_one_line_that_says_what_it_is_and_what_to_do(
    make: Callable[[Path], Path], refusal: Refusal, place: Path
) -> None:
    message = refusal("freeze", make(place), place.parent / "out")
    assert REFUSED[make] in message
    assert len(message) < 700
    assert not (place.parent / "out").exists()


NASTY: list[Any] = [
    None, True, -1, 0, 10**9, 10**30, 1e400, float("nan"), "", "x" * 10**5, "\ud800", [], [[]], {}, {"a": [1]},
    list(range(10**4)),
]  # fmt: skip
FIELDS = (*GPT2Config().to_hf(), *SPECIAL, "n_ctx", "torch_dtype", "id2label", "max_length", "zzz")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("value", NASTY, ids=lambda value: repr(value)[:12])
def test_any_value_of_a_field_is_frozen_or_refused_in_one_line(
    file: str, value: object, place: Path, model: GPT2
) -> None:
    for field in FIELDS:
        (place / file).write_text(json.dumps(model.config.to_hf() | {field: value}))
        out = place.parent / f"out-{field}"
        out.mkdir()
        try:
            expected_text = freeze(open_checkpoint(place), out)
        except GPT2Error as error:
            expected_text = [str(error)]
        assert all(line.isprintable() and len(line) < 1000 for line in expected_text), field
