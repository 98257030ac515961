"""A checkpoint's tensors become the network's parameters exactly, or are all refused by name at once."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gpt2_model import GPT2, CheckpointWarning, GPT2Config, TensorError
from gpt2_model.weights import TABLE, load, parameter_shapes, stored_tensors
from safetensors.torch import save_file
from torch import Tensor

MakeModel = Callable[..., GPT2]
MakeFolder = Callable[..., Path]
Tensors = dict[str, Tensor]
MAPS = Path("/proc/self/maps")
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> GPT2:
    return make_model(dtype=torch.float32)


@pytest.fixture(scope="module")
def untied(make_model: MakeModel) -> GPT2:
    return make_model(dtype=torch.float32, tie_word_embeddings=False)


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def with_mask_buffers(tensors: Tensors) -> Tensors:
    """As old transformers saved them: the causal mask and the constant for masked scores."""
    buffers = {}
    for layer in range(2):
        buffers[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8).tril()
        buffers[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return tensors | buffers


def with_its_head(tensors: Tensors) -> Tensors:
    return tensors | {HEAD: tensors[EMBEDDING].clone()}


def with_its_head_only(tensors: Tensors) -> Tensors:
    rest = dict(tensors)
    return {HEAD: rest.pop(EMBEDDING)} | rest


def as_old_dialogpt(tensors: Tensors) -> Tensors:
    return tensors | {"lm_head.decoder.weight": tensors[EMBEDDING].clone()}


def as_openai_published_it(tensors: Tensors) -> Tensors:
    return without_prefix(with_mask_buffers(tensors))


def assert_same_parameters(loaded: GPT2, expected: GPT2) -> None:
    parameters = dict(loaded.named_parameters())
    assert parameters.keys() == dict(expected.named_parameters()).keys()
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(parameters[name], parameter, rtol=0, atol=0)


@pytest.mark.parametrize(
    "disguise",
    [
        dict,
        without_prefix,
        with_mask_buffers,
        as_openai_published_it,
        with_its_head,
        with_its_head_only,
        as_old_dialogpt,
    ],
    ids=lambda disguise: "as transformers saves it" if disguise is dict else disguise.__name__.replace("_", " "),
)
def test_a_checkpoint_in_the_wild_loads_exactly(
    disguise: Callable[[Tensors], Tensors], model: GPT2, make_folder: MakeFolder
) -> None:
    loaded = GPT2.from_pretrained(make_folder(model, tensors=disguise(stored_tensors(model))))
    assert_same_parameters(loaded, model)
    assert loaded.lm_head.weight is loaded.wte.weight
    assert not loaded.training


def test_a_sharded_checkpoint_loads_exactly(model: GPT2, make_folder: MakeFolder) -> None:
    folder = make_folder(model)
    (folder / "model.safetensors").unlink()
    tensors = stored_tensors(model)
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00003.safetensors": names[i::3] for i in range(3)}
    for file, group in shards.items():
        save_file({name: tensors[name] for name in group}, folder / file)
    weight_map = {name: file for file, group in shards.items() for name in group}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same_parameters(GPT2.from_pretrained(folder), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_values_are_read_exactly(
    dtype: torch.dtype, model: GPT2, make_model: MakeModel, make_folder: MakeFolder
) -> None:
    halves = {name: tensor.to(dtype) for name, tensor in stored_tensors(model).items()}
    loaded = GPT2.from_pretrained(make_folder(model, tensors=halves, config={"dtype": str(dtype)[6:]}))
    assert loaded.wte.weight.dtype == torch.float32
    assert_same_parameters(loaded, make_model(dtype=torch.float32).to(dtype).to(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_are_loaded_in_the_requested_dtype(dtype: torch.dtype, model: GPT2, make_folder: MakeFolder) -> None:
    loaded = GPT2.from_pretrained(make_folder(model), dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert loaded(torch.tensor([[1, 2]]))[0].dtype == dtype


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("attn.c_attn", "transformer.h.1.attn.c_attn"),
        ("attn.c_proj", "transformer.h.1.attn.c_proj"),  # square: the shape does not decide
        ("mlp.c_fc", "transformer.h.1.mlp.c_fc"),
        ("mlp.c_proj", "transformer.h.1.mlp.c_proj"),
    ],
)
def test_a_projection_multiplies_by_the_files_matrix_from_the_right(
    place: str, name: str, make_model: MakeModel, make_folder: MakeFolder
) -> None:
    model = make_model(dtype=torch.float32, n_inner=12)  # makes both MLP matrices square too
    tensors = stored_tensors(model)
    loaded = GPT2.from_pretrained(make_folder(model, tensors=tensors))
    projection = loaded.h[1].get_submodule(place)
    x = torch.randn(5, 12)
    torch.testing.assert_close(projection(x), x @ tensors[f"{name}.weight"] + tensors[f"{name}.bias"])


def test_an_untied_head_is_kept(untied: GPT2, make_folder: MakeFolder) -> None:
    loaded = GPT2.from_pretrained(make_folder(untied))
    assert_same_parameters(loaded, untied)
    assert not torch.equal(loaded.lm_head.weight, loaded.wte.weight)


@pytest.mark.parametrize("name", [HEAD, "lm_head.decoder.weight"])
def test_a_head_that_differs_is_kept_although_the_config_ties_it(
    name: str, untied: GPT2, make_folder: MakeFolder
) -> None:
    tensors = stored_tensors(untied)
    tensors[name] = tensors.pop(HEAD)
    with pytest.warns(CheckpointWarning, match="the file has a different head: it is kept, untied"):
        loaded = GPT2.from_pretrained(make_folder(untied, tensors=tensors, config={"tie_word_embeddings": True}))
    assert_same_parameters(loaded, untied)
    assert loaded.config.tie_word_embeddings is False


def test_an_untied_model_may_have_two_equal_matrices(model: GPT2, make_folder: MakeFolder) -> None:
    tensors = with_its_head(stored_tensors(model))
    loaded = GPT2.from_pretrained(make_folder(model, tensors=tensors, config={"tie_word_embeddings": False}))
    assert loaded.lm_head.weight is not loaded.wte.weight
    assert torch.equal(loaded.lm_head.weight, model.wte.weight)


def test_a_resized_vocabulary_loads_with_its_config(make_model: MakeModel, make_folder: MakeFolder) -> None:
    resized = make_model(dtype=torch.float32, vocab_size=53)
    assert_same_parameters(GPT2.from_pretrained(make_folder(resized)), resized)


def test_stored_tensors_load_back(untied: GPT2, make_folder: MakeFolder) -> None:
    again = make_folder(untied, tensors=stored_tensors(GPT2.from_pretrained(make_folder(untied))), name="again")
    assert_same_parameters(GPT2.from_pretrained(again), untied)


def test_stored_tensors_have_transformers_names_and_shapes(model: GPT2, untied: GPT2) -> None:
    stored = {name: tuple(tensor.shape) for name, tensor in stored_tensors(model).items()}
    layer = {
        "ln_1.weight": (12,),
        "ln_1.bias": (12,),
        "attn.c_attn.weight": (12, 36),
        "attn.c_attn.bias": (36,),
        "attn.c_proj.weight": (12, 12),
        "attn.c_proj.bias": (12,),
        "ln_2.weight": (12,),
        "ln_2.bias": (12,),
        "mlp.c_fc.weight": (12, 48),
        "mlp.c_fc.bias": (48,),
        "mlp.c_proj.weight": (48, 12),
        "mlp.c_proj.bias": (12,),
    }
    expected = {EMBEDDING: (50, 12), "transformer.wpe.weight": (16, 12)}
    expected |= {f"transformer.h.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    expected |= {"transformer.ln_f.weight": (12,), "transformer.ln_f.bias": (12,)}
    assert stored == expected
    assert stored_tensors(untied).keys() == {*expected, HEAD}


def refusal(folder: Path) -> str:
    with pytest.raises(TensorError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert "\n" not in message
    return message


def test_every_misfit_is_named_in_one_message(model: GPT2, make_folder: MakeFolder) -> None:
    tensors = stored_tensors(model)
    del tensors["transformer.h.0.ln_1.bias"], tensors["transformer.ln_f.weight"]
    tensors["transformer.h.0.attn.rotary.inv_freq"] = torch.ones(4)
    tensors["transformer.h.2.ln_1.bias"] = torch.ones(12)  # a third layer, which the config does not have
    tensors["transformer.wpe.weight"] = torch.ones(8, 12)
    tensors["transformer.h.1.mlp.c_fc.bias"] = torch.ones(48, dtype=torch.int64)
    message = refusal(make_folder(model, tensors=tensors))
    for complaint in (
        "6 tensors do not fit",
        "missing h.0.ln_1.bias",
        "missing ln_f.weight",
        "unexpected transformer.h.0.attn.rotary.inv_freq",
        "unexpected transformer.h.2.ln_1.bias",
        "transformer.wpe.weight has shape [8, 12], config.json says [16, 12]",
        "transformer.h.1.mlp.c_fc.bias is int64, only float64, float32, float16, bfloat16 are read",
    ):
        assert complaint in message


@pytest.mark.parametrize("parameter", sorted(parameter_shapes(GPT2Config(n_layer=1))))
def test_no_parameter_may_be_missing(parameter: str, make_model: MakeModel, make_folder: MakeFolder) -> None:
    model = make_model(dtype=torch.float32, n_layer=1)
    tensors = stored_tensors(model)
    del tensors[f"transformer.{parameter}"]
    assert refusal(make_folder(model, tensors=tensors)).endswith(f"1 tensor does not fit: missing {parameter}")


def test_an_untied_model_without_a_head_is_refused(model: GPT2, make_folder: MakeFolder) -> None:
    assert "missing lm_head.weight" in refusal(make_folder(model, config={"tie_word_embeddings": False}))


def test_more_layers_than_tensors_are_refused_without_planning_them(model: GPT2, make_folder: MakeFolder) -> None:
    message = refusal(make_folder(model, config={"n_layer": 10**9}))  # planning them would take days
    assert message.endswith("config.json says 1000000000 layers, but there are 28 tensors in all")


@pytest.mark.parametrize("name", ["attn.c_attn", "mlp.c_fc", "mlp.c_proj"])
def test_a_matrix_stored_transposed_is_refused(name: str, model: GPT2, make_folder: MakeFolder) -> None:
    tensors, name = stored_tensors(model), f"transformer.h.0.{name}.weight"
    stored = list(tensors[name].shape)
    folder = make_folder(model, tensors=tensors | {name: tensors[name].t().contiguous()})
    assert f"{name} has shape {stored[::-1]}, config.json says {stored}" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.int8, torch.float8_e4m3fn, torch.bool])
def test_a_type_that_float32_may_not_hold_is_refused(dtype: torch.dtype, model: GPT2, make_folder: MakeFolder) -> None:
    tensors = stored_tensors(model)
    tensors[EMBEDDING] = tensors[EMBEDDING].to(dtype)
    assert f"{EMBEDDING} is {str(dtype)[6:]}, only float64, float32" in refusal(make_folder(model, tensors=tensors))


def test_a_vocabulary_resized_behind_the_configs_back_is_refused(model: GPT2, make_folder: MakeFolder) -> None:
    folder = make_folder(model, config={"vocab_size": 53})
    assert f"{EMBEDDING} has shape [50, 12], config.json says [53, 12]" in refusal(folder)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (EMBEDDING, "wte.weight"),
        ("transformer.h.0.attn.c_attn.bias", "h.0.attn.c_attn.bias"),
        ("lm_head.decoder.weight", HEAD),
    ],
)
def test_two_names_for_one_parameter_are_refused(one: str, other: str, untied: GPT2, make_folder: MakeFolder) -> None:
    tensors = stored_tensors(untied)
    tensors |= {name: tensors.get(one, tensors[HEAD]).clone() for name in (one, other)}
    message = refusal(make_folder(untied, tensors=tensors))
    assert re.search(
        rf"\b{re.escape(min(one, other))} and {re.escape(max(one, other))} are the same parameter", message
    )


@pytest.mark.parametrize(
    "name",
    [
        "transformer.transformer.wte.weight",
        "h.x.ln_1.weight",
        "h.0.attn.bias.weight",
        "xh.0.attn.bias",
        "h.0.attn.masked_bias2",
        "h.0.crossattention.c_attn.weight",
        "scores.weight",
        "v_heads.summary.weight",
        "lm_head.bias",
        "transformer.h.0.ln_1.weights",
        "TRANSFORMER.wte.weight",
    ],
)
def test_a_name_that_only_resembles_a_known_one_is_unexpected(name: str, model: GPT2, make_folder: MakeFolder) -> None:
    tensors = stored_tensors(model) | {name: torch.ones(2)}
    assert f"unexpected {name}" in refusal(make_folder(model, tensors=tensors))


def test_dropping_the_masks_drops_no_bias(model: GPT2, make_folder: MakeFolder) -> None:
    masks_only = {name for name in with_mask_buffers({}) if name.endswith(("attn.bias", "masked_bias"))}
    assert len(masks_only) == 4
    tensors = with_mask_buffers(stored_tensors(model))
    dropped = [row[0] for row in TABLE if row[2] == "drop"]
    matched = {name for name in tensors for row in dropped if re.fullmatch(row, name.removeprefix("transformer."))}
    assert matched == masks_only


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists mapped files")
def test_weights_are_mapped_from_their_file_and_not_copied(model: GPT2, make_folder: MakeFolder) -> None:
    folder = make_folder(model)
    one, other = load(folder), load(folder)
    ranges = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in MAPS.read_text(encoding="utf-8").splitlines()
        if line.endswith(str(folder / "model.safetensors"))
    ]
    for loaded in (one, other):
        for name, parameter in loaded.named_parameters():
            assert any(start <= parameter.data_ptr() < end for start, end in ranges), name


def test_training_a_loaded_model_never_writes_to_the_file(model: GPT2, make_folder: MakeFolder) -> None:
    folder = make_folder(model)
    before = (folder / "model.safetensors").read_bytes()
    loaded = load(folder)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before
    assert_same_parameters(load(folder), model)


def test_a_loaded_model_can_be_trained(model: GPT2, make_folder: MakeFolder) -> None:
    loaded = load(make_folder(model))
    loaded.loss(torch.arange(16)[None]).backward()
    assert [name for name, p in loaded.named_parameters() if p.grad is None or not p.grad.any()] == []
