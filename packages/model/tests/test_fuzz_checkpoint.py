"""Whatever is in a checkpoint folder, it loads or one short line says why not; no other exception escapes."""

import json
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2_model import GPT2, GPT2Error
from gpt2_model.hub import DOCUMENTS
from gpt2_model.layouts import INNER, PREFIXES
from gpt2_model.weights import load, stored_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

MakeModel = Callable[..., GPT2]
NIGHTLY = settings(max_examples=1000)
LONGEST = 1500  # characters of a message, the folder's path among them

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, 12, 2**31, 10**9, 10**30])
    | st.floats()
    | st.text(max_size=20)
    | st.just("x" * 10**5)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> GPT2:
    return make_model(dtype=torch.float32)


def attempt(folder: Path, **options: Any) -> str:
    """The error message, empty if the checkpoint loaded; any exception that is not ours escapes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            load(folder, **options)
            message = ""
        except GPT2Error as error:
            message = str(error)
    for line in (message, *(str(each.message) for each in caught)):
        assert len(line) < LONGEST, line
        assert "\n" not in line.replace(str(folder), ""), line
    return message


def write(folder: Path, model: GPT2, config: object, tensors: dict[str, torch.Tensor] | None = None) -> None:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(stored_tensors(model) if tensors is None else tensors, folder / "model.safetensors")


def any_config(model: GPT2, changes: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        write(Path(place), model, model.config.to_hf() | changes)
        attempt(Path(place))


# fmt: off
known = st.sampled_from((
    "model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "n_ctx", "architectures",
    "activation_function", "layer_norm_epsilon", "hidden_size", "quantization_config", "tie_word_embeddings",
))
# fmt: on
changes = st.dictionaries(known | st.text(max_size=30), values, min_size=1, max_size=4)


@given(changes=changes)
def test_any_config_is_read_or_refused_in_one_line(model: GPT2, changes: dict[str, Any]) -> None:
    any_config(model, changes)


@pytest.mark.nightly
@NIGHTLY
@given(changes=changes)
def test_any_config_at_length(model: GPT2, changes: dict[str, Any]) -> None:
    any_config(model, changes)


def any_names(model: GPT2, data: st.DataObject) -> None:
    """Some of the tensors renamed, reshaped, retyped or dropped."""
    parts = st.sampled_from([*PREFIXES, *INNER, "lora_A.", "v_head.", "score.", "transformer.", ""]) | st.text(
        max_size=9
    )
    tensors = stored_tensors(model)
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=6, unique=True)):
        tensor = tensors.pop(name)
        change = data.draw(st.sampled_from(["drop", "prefix", "infix", "turn", "type", "shape"]))
        if change == "prefix":
            tensors[data.draw(parts) + name] = tensor
        elif change == "infix":
            tensors[name.replace(".h.", f".h.{data.draw(parts)}")] = tensor
        elif change == "turn":
            tensors[name] = tensor.t().contiguous() if tensor.dim() == 2 else tensor
        elif change == "type":
            tensors[name] = tensor.to(
                data.draw(st.sampled_from([torch.int8, torch.float64, torch.bool, torch.float16]))
            )
        elif change == "shape":
            tensors[name] = torch.ones(data.draw(st.lists(st.integers(0, 5), max_size=3)))
    everywhere = data.draw(parts)
    with tempfile.TemporaryDirectory() as place:
        config = model.config.to_hf() | data.draw(st.dictionaries(st.just("architectures"), values, max_size=1))
        write(Path(place), model, config, {everywhere + name: tensor for name, tensor in tensors.items()})
        attempt(Path(place))


@given(data=st.data())
def test_any_names_of_tensors_are_read_or_refused_in_one_line(model: GPT2, data: st.DataObject) -> None:
    any_names(model, data)


@pytest.mark.nightly
@NIGHTLY
@given(data=st.data())
def test_any_names_of_tensors_at_length(model: GPT2, data: st.DataObject) -> None:
    any_names(model, data)


def any_bytes(model: GPT2, name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder, model, model.config.to_hf())
        if (not name.startswith("model.safetensors") and name not in DOCUMENTS) or name.endswith("index.json"):
            (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)
        attempt(folder, allow_pickle=True)


files = st.sampled_from(
    ["config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "ckpt.pt"]
)
contents = (
    st.binary(max_size=200)
    | values.map(lambda value: json.dumps(value).encode())
    | values.map(lambda value: json.dumps({"weight_map": value}).encode())
    | st.dictionaries(st.text(max_size=9), st.text(max_size=40)).map(
        lambda map_: json.dumps({"weight_map": map_}).encode()
    )
    | values.map(pickle.dumps)
)


@given(name=files, content=contents)
def test_any_bytes_are_read_or_refused_in_one_line(model: GPT2, name: str, content: bytes) -> None:
    any_bytes(model, name, content)


@pytest.mark.nightly
@NIGHTLY
@given(name=files, content=contents)
def test_any_bytes_at_length(model: GPT2, name: str, content: bytes) -> None:
    any_bytes(model, name, content)


def any_args(model: GPT2, args: object, beside: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(json.dumps(beside))
        torch.save({"model": stored_tensors(model), "model_args": args}, Path(place) / "ckpt.pt")
        attempt(Path(place), allow_pickle=True)


ARGS = {"n_layer": 2, "n_head": 3, "n_embd": 12, "block_size": 16, "bias": True, "vocab_size": 50}
args = values | st.dictionaries(st.sampled_from(sorted(ARGS)) | st.text(max_size=5), values).map(
    lambda each: ARGS | each
)


@given(args=args, beside=changes)
def test_any_settings_of_nanogpt_are_read_or_refused_in_one_line(
    model: GPT2, args: object, beside: dict[str, Any]
) -> None:
    any_args(model, args, beside)


@pytest.mark.nightly
@NIGHTLY
@given(args=args, beside=changes)
def test_any_settings_of_nanogpt_at_length(model: GPT2, args: object, beside: dict[str, Any]) -> None:
    any_args(model, args, beside)
