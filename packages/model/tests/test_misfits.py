"""The message for tensors that do not fit is a few lines at most, whatever the model's size."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gpt2_model import GPT2, GPT2Config, TensorError
from gpt2_model.misfits import MISSING, SHAPE, UNEXPECTED, report
from gpt2_model.weights import load, parameter_shapes, stored_tensors
from hypothesis import given
from hypothesis import strategies as st

MakeModel = Callable[..., GPT2]
MakeFolder = Callable[..., Path]


def refusal(folder: Path) -> str:
    with pytest.raises(TensorError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.isprintable()
    return message.removeprefix(f"{folder}: ")


@pytest.fixture(scope="module")
def deep(make_model: MakeModel) -> GPT2:
    return make_model(dtype=torch.float32, n_layer=48)


def test_a_deep_network_of_other_names_is_reported_in_a_few_lines(deep: GPT2, make_folder: MakeFolder) -> None:
    tensors = {f"gpt.net.{name}": tensor for name, tensor in stored_tensors(deep).items()}
    message = refusal(make_folder(deep, tensors=tensors))
    assert len(message) < 800
    assert message.startswith("1160 tensors do not fit: ")
    assert "missing h.*.ln_1.weight (in 48 blocks)" in message
    assert "unexpected gpt.net.transformer.h.*.attn.c_attn.bias (in 48 blocks)" in message
    assert "all begin with gpt.net.transformer." in message


def test_a_deep_network_of_another_width_is_reported_by_the_sizes(deep: GPT2, make_folder: MakeFolder) -> None:
    message = refusal(make_folder(deep, config={"n_embd": 24}))
    assert len(message) < 800
    assert "config.json says n_embd 24, the tensors 12" in message
    assert "has shape [12], config.json says [24] (in 48 blocks)" in message
    assert "more are of another shape" in message


@pytest.mark.parametrize(
    ("config", "reported"),
    [
        ({"n_embd": 10**9, "n_head": 1}, "config.json says n_embd 1000000000, the tensors 12"),
        ({"n_positions": 10**9}, "config.json says n_positions 1000000000, the tensors 16"),
        ({"vocab_size": 10**9}, "config.json says vocab_size 1000000000, the tensors 50"),
        ({"n_inner": 10**9}, "c_fc.bias has shape [48], config.json says [1000000000] (in 2 blocks)"),
        ({"n_layer": 10**9}, "config.json says 1000000000 layers, but there are 28 tensors in all"),
        ({"n_layer": 3}, "config.json says n_layer 3, the tensors 2"),
        ({"n_layer": 1}, "config.json says n_layer 1, the tensors 2"),
        ({"n_positions": 15}, "config.json says n_positions 15, the tensors 16"),
        ({"n_embd": 2**31 - 1, "n_head": 1, "vocab_size": 2**31 - 1, "n_inner": 2**31 - 1}, "n_embd 2147483647"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_size_that_the_tensors_do_not_have_is_refused_before_anything_is_allocated(
    config: dict[str, int], reported: str, make_model: MakeModel, make_folder: MakeFolder
) -> None:
    message = refusal(make_folder(make_model(dtype=torch.float32), config=config))
    assert reported in message
    assert len(message) < 900


@pytest.mark.parametrize("name", ["x" * 10_000, "a\nb", "\x1b[2J", " ", "ü" * 100, f"h.{'9' * 10_000}.ln_1.bias"])
def test_names_do_not_flood_the_message_or_the_terminal(
    name: str, make_model: MakeModel, make_folder: MakeFolder
) -> None:
    model = make_model(dtype=torch.float32)
    message = refusal(make_folder(model, tensors=stored_tensors(model) | {name: torch.ones(1)}))
    assert message.startswith("1 tensor does not fit: ")
    assert "unexpected " in message
    assert len(message) < 200


def test_ten_thousand_tensors_are_counted(make_model: MakeModel, make_folder: MakeFolder) -> None:
    model = make_model(dtype=torch.float32)
    many = {f"expert.{i}.w": torch.ones(1) for i in range(10_000)}
    message = refusal(make_folder(model, tensors=stored_tensors(model) | many))
    assert message.endswith("9997 more are unexpected, all begin with expert.")


@given(
    st.dictionaries(
        st.sampled_from([MISSING, UNEXPECTED, SHAPE]),
        st.lists(st.text(max_size=30).map("missing {}".format), max_size=60),
    )
)
def test_every_misfit_is_counted_and_the_message_is_short(misfits: dict[str, list[str]]) -> None:
    message = report(misfits, {})
    count = sum(map(len, misfits.values()))
    assert message.startswith("1 tensor does not fit" if count == 1 else f"{count} tensors do not fit")
    assert len(message) < 1200


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_inner", [None, 7])
def test_parameter_shapes_are_those_of_the_network(tied: bool, n_inner: int | None) -> None:
    config = GPT2Config(
        vocab_size=11, n_positions=5, n_embd=6, n_layer=3, n_head=2, n_inner=n_inner, tie_word_embeddings=tied
    )
    built = {name: tuple(parameter.shape) for name, parameter in GPT2(config).named_parameters()}
    assert list(parameter_shapes(config).items()) == list(built.items())
