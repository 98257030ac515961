"""However a checkpoint is written, the frozen one is the same: float32, transformers' names, one copy of each."""

import gc
import json
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2_export.freeze.freeze import freeze, frozen_bytes
from gpt2_model import GPT2, ConfigError, GPT2Config, TensorError
from gpt2_model.checkpoint import Checkpoint, open_checkpoint
from gpt2_model.weights import stored_tensors
from safetensors.torch import load_file, save_file
from torch import Tensor

MakeModel = Callable[..., GPT2]
MakeCheckpoint = Callable[..., Path]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Frozen:
    """The content of a frozen folder."""

    folder: Path
    warnings: list[str]

    @property
    def tensors(self) -> Tensors:
        return load_file(self.folder / "model.safetensors")

    def json(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / name).read_text(encoding="utf-8")))


Freeze = Callable[..., Frozen]


@pytest.fixture
def frozen(tmp_path: Path) -> Freeze:
    def frozen(source: Path | Checkpoint, *, allow_pickle: bool = False, ignore: Collection[str] = ()) -> Frozen:
        out = tmp_path / "frozen"
        out.mkdir()
        checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source, allow_pickle=allow_pickle)
        return Frozen(out, freeze(checkpoint, out, ignore_config=ignore))

    return frozen


def prefixless(tensors: Tensors) -> Tensors:
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def with_masks(tensors: Tensors) -> Tensors:
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 24, 24).tril().to(torch.uint8) for layer in (0, 1)}
    return tensors | masks | {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}


def with_tied_head(tensors: Tensors) -> Tensors:
    return tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}


def with_only_the_head(tensors: Tensors) -> Tensors:
    embedding = tensors["transformer.wte.weight"]
    return {name: t for name, t in tensors.items() if t is not embedding} | {"lm_head.weight": embedding}


def with_old_dialogpt_head(tensors: Tensors) -> Tensors:
    return tensors | {"lm_head.decoder.weight": tensors["transformer.wte.weight"].clone()}


def same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Compares names, dtypes, shapes and every bit."""
    return actual.keys() == expected.keys() and all(
        actual[name].dtype == expected[name].dtype and torch.equal(actual[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize(
    "variant",
    [dict, prefixless, with_masks, with_tied_head, with_only_the_head, with_old_dialogpt_head],
    ids=lambda variant: variant.__name__,
)
def test_every_way_of_naming_freezes_to_the_same_tensors(
    make_checkpoint: MakeCheckpoint, frozen: Freeze, model: GPT2, variant: Callable[[Tensors], Tensors]
) -> None:
    result = frozen(make_checkpoint(tensors=variant(stored_tensors(model))))
    assert same(result.tensors, stored_tensors(model))
    assert result.json("config.json")["tie_word_embeddings"] is True


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_to_float32_exactly(
    make_checkpoint: MakeCheckpoint, frozen: Freeze, model: GPT2, dtype: torch.dtype
) -> None:
    halves = {name: tensor.to(dtype) for name, tensor in stored_tensors(model).items()}
    result = frozen(make_checkpoint(tensors=halves))
    assert same(result.tensors, {name: tensor.float() for name, tensor in halves.items()})


def test_shards_become_one_file(make_checkpoint: MakeCheckpoint, frozen: Freeze, model: GPT2) -> None:
    folder = make_checkpoint()
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, (name, tensor) in enumerate(stored_tensors(model).items()):
        weight_map[name] = f"model-{number:05}-of-00099.safetensors"
        save_file({name: tensor}, folder / weight_map[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    result = frozen(folder)
    assert same(result.tensors, stored_tensors(model))
    assert not [path for path in result.folder.iterdir() if "-of-" in path.name or "index" in path.name]


def test_a_pickle_is_frozen_if_allowed(make_checkpoint: MakeCheckpoint, frozen: Freeze, model: GPT2) -> None:
    folder = make_checkpoint()
    (folder / "model.safetensors").unlink()
    torch.save(stored_tensors(model), folder / "pytorch_model.bin")
    assert same(frozen(folder, allow_pickle=True).tensors, stored_tensors(model))


def test_the_embedding_of_a_tied_model_is_stored_once(
    make_checkpoint: MakeCheckpoint, frozen: Freeze, model: GPT2
) -> None:
    result = frozen(make_checkpoint(tensors=with_tied_head(stored_tensors(model))))
    assert "lm_head.weight" not in result.tensors
    parameters = sum(parameter.numel() for parameter in model.parameters())  # torch counts a tied one once
    assert 0 < (result.folder / "model.safetensors").stat().st_size - 4 * parameters < 4096  # the header


def test_a_head_of_an_untied_model_is_kept_beside_the_embedding(
    make_checkpoint: MakeCheckpoint, frozen: Freeze, make_model: MakeModel
) -> None:
    untied = make_model(tie_word_embeddings=False)
    result = frozen(make_checkpoint(model=untied))
    assert same(result.tensors, stored_tensors(untied))
    assert result.json("config.json")["tie_word_embeddings"] is False
    assert not [warning for warning in result.warnings if "head" in warning]


def test_a_head_that_differs_from_the_tied_one_is_kept_with_a_warning(
    make_checkpoint: MakeCheckpoint, frozen: Freeze, model: GPT2, make_model: MakeModel
) -> None:
    tensors = stored_tensors(make_model(tie_word_embeddings=False))
    result = frozen(make_checkpoint(model=model, tensors=tensors))
    assert same(result.tensors, tensors)
    assert result.json("config.json")["tie_word_embeddings"] is False
    assert "config.json ties the head to the embedding, but the file has a different head: it is kept, untied" in (
        result.warnings
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_value_that_is_not_finite_is_refused_with_the_tensors_name(
    make_checkpoint: MakeCheckpoint, frozen: Freeze, model: GPT2, value: float, dtype: torch.dtype
) -> None:
    tensors = {name: tensor.to(dtype, copy=True) for name, tensor in stored_tensors(model).items()}
    tensors["transformer.h.1.mlp.c_fc.weight"].view(-1)[[3, 77]] = value
    with pytest.raises(TensorError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight has 2 of \d+ values NaN or infinite"):
        frozen(make_checkpoint(tensors=tensors))


def test_a_dropped_mask_may_hold_anything(make_checkpoint: MakeCheckpoint, frozen: Freeze, model: GPT2) -> None:
    tensors = stored_tensors(model) | {"transformer.h.0.attn.masked_bias": torch.tensor(-float("inf"))}
    assert same(frozen(make_checkpoint(tensors=tensors)).tensors, stored_tensors(model))


def test_config_describes_the_frozen_weights(make_checkpoint: MakeCheckpoint, frozen: Freeze) -> None:
    config = {"torch_dtype": "float16", "dtype": "float16", "architectures": ["GPT2Model"], "_name_or_path": "/home/me"}
    result = frozen(make_checkpoint(config=config)).json("config.json")
    assert result["dtype"] == "float32"
    assert result["architectures"] == ["GPT2LMHeadModel"]
    assert not {"torch_dtype", "_name_or_path"} & result.keys()


def test_config_points_transformers_js_to_an_existing_graph(make_checkpoint: MakeCheckpoint, frozen: Freeze) -> None:
    """The source's setting describes its own graphs: names, pieces and precisions that the folder does not have."""
    theirs = {"dtype": "q4", "use_external_data_format": {"model_q4.onnx": 2}, "kv_cache_dtype": {"q4": "float16"}}
    result = frozen(make_checkpoint(config={"transformers.js_config": theirs})).json("config.json")
    assert result["transformers.js_config"] == {"dtype": "fp32"}


def test_config_keeps_the_sources_own_fields(make_checkpoint: MakeCheckpoint, frozen: Freeze) -> None:
    own = {"eos_token_id": 7, "id2label": {"0": "naïve"}, "task_specific_params": {}, "n_ctx": 24, "pad_token_id": None}
    assert own.items() <= frozen(make_checkpoint(config=own)).json("config.json").items()


def test_generic_size_names_become_gpt2s(make_checkpoint: MakeCheckpoint, frozen: Freeze, model: GPT2) -> None:
    folder = make_checkpoint()
    generic = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 24}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 300} | generic))
    result = frozen(folder).json("config.json")
    assert not generic.keys() & result.keys()
    assert GPT2Config.from_hf(result) == model.config


def test_an_ignored_field_is_left_out_with_a_warning(make_checkpoint: MakeCheckpoint, frozen: Freeze) -> None:
    result = frozen(make_checkpoint(config={"mystery": 3}), ignore=["mystery"])
    assert "mystery" not in result.json("config.json")
    assert "config.json: mystery was left out, as requested" in result.warnings


@pytest.mark.parametrize("field", ["n_embd", "activation_function"])
def test_a_field_that_counts_is_never_reported_as_left_out(
    make_checkpoint: MakeCheckpoint, frozen: Freeze, field: str
) -> None:
    try:
        warnings = frozen(make_checkpoint(), ignore=[field]).warnings
    except ConfigError:
        return  # a refusal would be as honest
    assert f"config.json: {field} was left out, as requested" not in warnings


def test_the_frozen_config_and_weights_are_the_same_network(
    make_checkpoint: MakeCheckpoint, frozen: Freeze, make_model: MakeModel
) -> None:
    model = make_model(n_inner=40, activation_function="gelu", scale_attn_by_inverse_layer_idx=True)
    again = GPT2.from_pretrained(frozen(make_checkpoint(model=model)).folder)
    ids = torch.randint(300, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(ids)[0], model(ids)[0])


def test_generation_config_is_copied_unchanged(make_checkpoint: MakeCheckpoint, frozen: Freeze) -> None:
    folder = make_checkpoint(config={"eos_token_id": 7})
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 8], "do_sample": true}')
    assert frozen(folder).json("generation_config.json") == {"eos_token_id": [7, 8], "do_sample": True}


def test_a_missing_generation_config_is_made_from_configs_special_tokens(
    make_checkpoint: MakeCheckpoint, frozen: Freeze
) -> None:
    folder = make_checkpoint(config={"eos_token_id": 7, "bos_token_id": 0, "pad_token_id": None})
    assert frozen(folder).json("generation_config.json") == {"eos_token_id": 7, "bos_token_id": 0}


def test_a_missing_generation_config_includes_configs_sampling_settings(
    make_checkpoint: MakeCheckpoint, frozen: Freeze
) -> None:
    settings = {"repetition_penalty": 1.3, "do_sample": True, "top_k": 7, "no_repeat_ngram_size": 2}
    folder = make_checkpoint(config=settings)
    assert frozen(folder).json("generation_config.json") == settings


def test_onnxruntime_genai_stops_where_transformers_does(make_checkpoint: MakeCheckpoint, frozen: Freeze) -> None:
    folder = make_checkpoint(config={"eos_token_id": 299, "bos_token_id": 299})
    (folder / "generation_config.json").write_text('{"eos_token_id": [299, 125]}')
    result = frozen(folder).json("genai_config.json")["model"]
    assert (result["bos_token_id"], result["eos_token_id"], result["pad_token_id"]) == (299, [299, 125], 299)


def test_special_tokens_outside_the_vocabulary_raise_a_warning_and_are_not_in_genai_config(
    make_checkpoint: MakeCheckpoint, frozen: Freeze
) -> None:
    result = frozen(make_checkpoint(config={"eos_token_id": 50256, "bos_token_id": 50256}))  # transformers' defaults
    rest = "_token_id is 50256, the vocabulary has ids 0 to 299: others are never generated"
    assert {f"bos{rest}", f"eos{rest}"} <= set(result.warnings)
    assert not [name for name in result.json("genai_config.json")["model"] if name.endswith("_token_id")]


@pytest.mark.parametrize(("name", "value"), [("bos_token_id", "x"), ("eos_token_id", [1, True]), ("pad_token_id", [1])])
def test_special_tokens_that_are_not_ids_are_refused(
    make_checkpoint: MakeCheckpoint, frozen: Freeze, name: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"{name} is .*, must be a token id"):
        frozen(make_checkpoint(config={name: value}))


def test_fields_that_transformers_cannot_open_are_left_out_of_config(
    make_checkpoint: MakeCheckpoint, frozen: Freeze
) -> None:
    fields = {"return_dict": False, "use_return_dict": True, "transformers_weights": "other.safetensors"}
    config = frozen(make_checkpoint(config=fields | {"output_hidden_states": True})).json("config.json")
    assert not fields.keys() & config.keys()
    assert config["output_hidden_states"] is True


def test_half_a_surrogate_pair_in_config_is_refused(make_checkpoint: MakeCheckpoint, frozen: Freeze) -> None:
    with pytest.raises(ConfigError, match=r"config\.json has '\\ud800', which is half a surrogate pair"):
        frozen(make_checkpoint(config={"license": "\ud800"}))


def test_a_generation_config_that_is_not_json_is_refused(make_checkpoint: MakeCheckpoint, frozen: Freeze) -> None:
    folder = make_checkpoint()
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"generation_config\.json is not valid JSON"):
        frozen(folder)


def test_no_warning_names_a_place_on_this_machine(make_checkpoint: MakeCheckpoint, frozen: Freeze) -> None:
    folder = make_checkpoint(config={"mystery": 3})
    warnings = frozen(folder, ignore=["mystery"]).warnings  # about the missing tokenizer, too
    assert len(warnings) == 2
    assert not [warning for warning in warnings if str(folder.parent) in warning]  # they go into manifest.json


def test_weights_pass_through_memory_a_tensor_at_a_time(
    make_checkpoint: MakeCheckpoint, frozen: Freeze, model: GPT2
) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def read(tensor: Tensor) -> Callable[[], Tensor]:
        def fresh() -> Tensor:
            nonlocal most
            copy = tensor.clone()
            alive.append(weakref.ref(copy))
            most = max(most, sum(one() is not None for one in alive))
            return copy

        return fresh

    checkpoint = open_checkpoint(make_checkpoint())
    lazy = {name: read(tensor.half()) for name, tensor in stored_tensors(model).items()}
    gc.collect()
    frozen(Checkpoint(**vars(checkpoint) | {"tensors": lazy}))
    assert 1 <= most <= 2  # one may be freed as the next is read


def test_the_size_of_the_weights_is_known_before_they_are_read(make_checkpoint: MakeCheckpoint, model: GPT2) -> None:
    halves = {name: tensor.half() for name, tensor in stored_tensors(model).items()}
    assert frozen_bytes(open_checkpoint(make_checkpoint(tensors=halves))) == 4 * sum(t.numel() for t in halves.values())
