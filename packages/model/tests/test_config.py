"""`GPT2Config`: every instance is valid, and every field of a config.json is used, inert or refused."""

import dataclasses
import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from gpt2_model import CheckpointWarning, ConfigError, GPT2Config
from gpt2_model.config import ACTIVATION_FUNCTIONS, ALIASES, REFUSED_FIELDS, REQUIRED_VALUES, is_known, read_hf
from gpt2_model.inert_fields import GENERATION_FIELDS, INERT
from hypothesis import given
from hypothesis import strategies as st

SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
FLAGS = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_word_embeddings")
RATES = ("resid_pdrop", "embd_pdrop", "attn_pdrop")

# config.json of checkpoints on the Hub, as published.
PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_configs.json").read_text(encoding="utf-8"))
SIZES_OF_PUBLISHED = {
    "openai-community/gpt2": (12, 12, 768),
    "openai-community/gpt2-medium": (24, 16, 1024),
    "openai-community/gpt2-large": (36, 20, 1280),
    "openai-community/gpt2-xl": (48, 25, 1600),
    "distilbert/distilgpt2": (6, 12, 768),
    "microsoft/DialoGPT-small": (12, 12, 768),
    "microsoft/DialoGPT-medium": (24, 16, 1024),
    "microsoft/DialoGPT-large": (36, 20, 1280),
}


def hf(**fields: Any) -> dict[str, Any]:
    return {"model_type": "gpt2", **fields}


def refusal(**fields: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        GPT2Config.from_hf(hf(**fields))
    return str(caught.value)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [0, -1, 1.0, "12", True, 2**31])
def test_a_size_is_a_whole_number_from_one_to_what_an_index_can_count(size: str, value: object) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"{size} is {value!r}; it must be a whole number from 1 to below 2,147,483,648")
    ):
        GPT2Config(**{size: value})


@pytest.mark.parametrize("size", [size for size in SIZES if size != "n_inner"])
def test_only_the_inner_size_may_be_none(size: str) -> None:
    with pytest.raises(ConfigError, match=f"{size} is None"):
        GPT2Config(**{size: None})
    assert GPT2Config(n_inner=None).inner_size == 3072
    assert GPT2Config(n_inner=100).inner_size == 100


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", [0, 1, None, "true"])
def test_a_flag_is_true_or_false(flag: str, value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{flag} is {value!r}; it must be true or false")):
        GPT2Config(**{flag: value})


@pytest.mark.parametrize("number", [*RATES, "layer_norm_epsilon", "initializer_range"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, None, "0.1", True])
def test_a_number_is_finite_and_not_negative(number: str, value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{number} is {value!r}; it must be a number from 0.0")):
        GPT2Config(**{number: value})


@pytest.mark.parametrize("number", [*RATES, "layer_norm_epsilon"])
def test_a_rate_of_one_would_leave_nothing(number: str) -> None:
    with pytest.raises(ConfigError, match=f"{number} is 1"):
        GPT2Config(**{number: 1})


def test_every_field_is_checked() -> None:
    unchecked = {field.name for field in dataclasses.fields(GPT2Config)}
    unchecked -= {*SIZES, *FLAGS, *RATES, "layer_norm_epsilon", "initializer_range", "activation_function"}
    assert not unchecked, "a new field needs a test of bad values above"


@pytest.mark.parametrize("value", ["quick_gelu", "GELU", "", None, 3])
def test_an_unknown_activation_is_refused_listing_the_known_ones(value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(value))) as caught:
        GPT2Config(activation_function=value)  # type: ignore[arg-type]
    assert all(name in str(caught.value) for name in ACTIVATION_FUNCTIONS)


def test_the_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(ConfigError, match="n_embd is 10, not a multiple of n_head, 4"):
        GPT2Config(n_embd=10, n_head=4)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPT2Config().n_layer = 3  # type: ignore[misc]


def test_sizes_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        GPT2Config(50257)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("scaled", "by_layer", "layer", "scale"),
    [
        (True, False, 0, 0.25),
        (True, False, 5, 0.25),
        (False, False, 5, 1.0),
        (True, True, 3, 0.0625),
        (False, True, 3, 0.25),
    ],
)
def test_the_attention_scale_follows_both_flags(scaled: bool, by_layer: bool, layer: int, scale: float) -> None:
    config = GPT2Config(n_embd=64, n_head=4, scale_attn_weights=scaled, scale_attn_by_inverse_layer_idx=by_layer)
    assert config.attention_scale(layer) == scale


def test_the_published_file_is_the_default() -> None:
    assert GPT2Config.from_hf(PUBLISHED["openai-community/gpt2"]) == GPT2Config()


@pytest.mark.parametrize("name", SIZES_OF_PUBLISHED)
def test_a_published_file_is_read_without_a_warning(name: str) -> None:
    config, remarks = read_hf(PUBLISHED[name])
    n_layer, n_head, n_embd = SIZES_OF_PUBLISHED[name]
    assert config == GPT2Config(n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    assert remarks == ()


def test_no_published_file_is_left_out() -> None:
    assert PUBLISHED.keys() == SIZES_OF_PUBLISHED.keys()


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_means_the_field(alias: str, name: str) -> None:
    assert getattr(GPT2Config.from_hf(hf(**{alias: 24})), name) == 24
    assert getattr(GPT2Config.from_hf(hf(**{alias: 24, name: 24})), name) == 24


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_that_contradicts_the_field_is_refused_in_either_order(alias: str, name: str) -> None:
    for fields in ({alias: 24, name: 36}, {name: 36, alias: 24}):
        message = refusal(**fields)
        assert name in message
        assert "24" in message
        assert "36" in message


def test_n_ctx_stands_for_n_positions_where_that_is_absent() -> None:
    assert GPT2Config.from_hf(hf(n_ctx=512)).n_positions == 512
    assert GPT2Config.from_hf(hf(n_ctx=512, n_positions=512)).n_positions == 512


@pytest.mark.parametrize("name", ["n_positions", "max_position_embeddings"])
@pytest.mark.parametrize("n_ctx", [32, 4096, "much", [1], 1.5])
def test_n_ctx_that_contradicts_n_positions_only_warns_in_either_order(name: str, n_ctx: object) -> None:
    for fields in ({"n_ctx": n_ctx, name: 64}, {name: 64, "n_ctx": n_ctx}):
        with pytest.warns(CheckpointWarning, match=re.escape(f"n_ctx is {n_ctx!r} but n_positions is 64")):
            assert GPT2Config.from_hf(hf(**fields)).n_positions == 64


def test_an_unknown_field_is_refused_with_its_value_and_the_option_that_ignores_it() -> None:
    message = refusal(rope_theta=10000)
    assert message == (
        "config.json: rope_theta is unknown (10000); if no logit depends on it, pass "
        "ignore=('rope_theta',) (--ignore-config rope_theta)"
    )
    assert GPT2Config.from_hf(hf(rope_theta=10000), ignore=("rope_theta",)) == GPT2Config()


def test_several_unknown_fields_are_refused_at_once_and_many_are_counted() -> None:
    message = refusal(a=1, b="x")
    assert "a is unknown (1), b is unknown ('x')" in message
    assert "if no logit depends on them, pass ignore=('a', 'b',) (--ignore-config a --ignore-config b)" in message
    message = refusal(**{f"novelty_{i}": i for i in range(1000)})
    assert "and 996 more are" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("n_layers", "n_layer"),
        ("n_postions", "n_positions"),
        ("layer_norm_eps", "layer_norm_epsilon"),
        ("activation_funtion", "activation_function"),
        ("tie_word_embedding", "tie_word_embeddings"),
        ("eos_token", "eos_token_id"),
    ],
)
def test_a_misspelt_field_is_refused_with_the_nearest_name(typo: str, meant: str) -> None:
    assert f"did you mean {meant}?" in refusal(**{typo: 1})
    assert "did you mean" not in refusal(rotary_dim=1)


@pytest.mark.parametrize(
    "name",
    sorted({field.name for field in dataclasses.fields(GPT2Config)}.union(ALIASES, INERT, REQUIRED_VALUES, ["n_ctx"])),
)
def test_null_means_absent(name: str) -> None:
    if name == "model_type":
        assert "model_type is absent" in refusal(model_type=None)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert GPT2Config.from_hf(hf(**{name: None})) == GPT2Config()
    # A warning where a default decides the arithmetic instead.
    decides = name in ALIASES or (
        name not in INERT and name not in REQUIRED_VALUES and name not in ("n_ctx", "n_inner")
    )
    assert [str(each.message) for each in caught] == [f"config.json: {name} is null, read as absent"] * decides


@pytest.mark.parametrize("name", ["rope_theta", "quantization_config", "auto_map", "x"])
def test_an_unknown_field_that_is_null_counts_as_absent_too(name: str) -> None:
    assert read_hf(hf(**{name: None})) == (GPT2Config(), ())


def test_a_quantization_or_custom_code_field_is_refused_with_the_remedy() -> None:
    message = refusal(quantization_config={"load_in_8bit": True})
    assert "quantization_config is {'load_in_8bit': True}: the weights are quantized" in message
    assert "model.dequantize()" in message
    message = refusal(auto_map={"AutoModelForCausalLM": "x.Y"})
    assert "--ignore-config auto_map" in message
    for name in REFUSED_FIELDS:
        assert GPT2Config.from_hf(hf(**{name: {"a": 1}}), ignore=(name,)) == GPT2Config()


@pytest.mark.parametrize(
    "value", [list(range(10**5)), "x" * 10**6, {"a": "y" * 10**5}, 10**4000, "\ud800", "\n\x1b[2J"]
)
@pytest.mark.parametrize("name", ["n_embd", "activation_function", "model_type", "layer_norm_epsilon", "zzz", "n_ctx"])
def test_no_value_floods_the_message_or_the_terminal(name: str, value: object) -> None:
    message = refusal(**{name: value})
    assert len(message) < 400
    assert message.isprintable()


@pytest.mark.parametrize("name", ["x" * 10**6, "\ud800", "a\nb", "", "'", "\x1b[2J"])
def test_no_name_floods_the_message_or_the_terminal(name: str) -> None:
    message = refusal(**{name: 1})
    assert len(message) < 400
    assert message.isprintable()


def test_an_unknown_field_does_not_flood_the_message_with_its_value() -> None:
    assert len(refusal(novelty=list(range(10_000)))) < 200


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "gpt_neo"},
        {"add_cross_attention": True},
        {"is_encoder_decoder": True},
        {"pruned_heads": {"0": [1]}},
        {"chunk_size_feed_forward": 64},
        {"tie_encoder_decoder": True},
        {"use_bfloat16": True},
        {"multi_query": True},
        {"attention_head_type": "multiquery"},
        {"auto_map": {"AutoModelForCausalLM": "modeling_gpt2_mq.GPT2LMHeadCustomModel"}},
        {"quantization_config": {"bits": 4}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_arithmetic_that_is_not_implemented_is_refused_by_name(fields: dict[str, Any]) -> None:
    ((name, value),) = fields.items()
    message = refusal(**fields)
    assert name in message
    assert str(value)[:20] in message


@pytest.mark.parametrize("name", sorted(REQUIRED_VALUES))
def test_a_field_that_requires_the_default_behaviour_is_accepted(name: str) -> None:
    assert GPT2Config.from_hf(hf() | {name: REQUIRED_VALUES[name]}) == GPT2Config()


def test_a_file_without_model_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="model_type is absent"):
        GPT2Config.from_hf({"n_layer": 12})


def test_santacoder_is_refused_with_all_its_differences_in_one_message() -> None:
    message = refusal(
        attention_head_type="multiquery",
        auto_map={"AutoConfig": "configuration_gpt2_mq.GPT2CustomConfig"},
        multi_query=True,
        n_embd=2048,
        n_head=16,
    )
    assert all(name in message for name in ("attention_head_type", "auto_map", "multi_query"))
    assert "\n" not in message


@pytest.mark.parametrize("name", sorted(INERT))
def test_a_field_without_effect_may_hold_anything(name: str) -> None:
    assert GPT2Config.from_hf(hf(**{name: ["anything"]})) == GPT2Config()


def test_is_known_covers_every_field_that_from_hf_reads() -> None:
    judged = {field.name for field in dataclasses.fields(GPT2Config)}.union(ALIASES, REQUIRED_VALUES, INERT)
    assert all(map(is_known, judged))
    assert not is_known("rope_theta")
    assert not is_known("auto_map")


def test_every_inert_field_has_a_reason_and_no_other_meaning() -> None:
    assert all(reason.strip() for reason in INERT.values())
    assert INERT.keys() >= GENERATION_FIELDS
    own = {field.name for field in dataclasses.fields(GPT2Config)}
    assert not INERT.keys() & own.union(ALIASES, REQUIRED_VALUES, REFUSED_FIELDS)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_either_name_of_the_stored_dtype_is_ignored(name: str) -> None:
    assert GPT2Config.from_hf(hf(**{name: "float16"})) == GPT2Config()


def test_bad_values_are_refused_from_a_file_too() -> None:
    assert "n_layer is 0" in refusal(n_layer=0)
    assert "layer_norm_epsilon is -1" in refusal(layer_norm_epsilon=-1)


@given(
    st.builds(
        lambda n_head, head_size, **others: GPT2Config(n_head=n_head, n_embd=n_head * head_size, **others),
        n_head=st.integers(1, 40),
        head_size=st.integers(1, 128),
        vocab_size=st.integers(1, 10**6),
        n_positions=st.integers(1, 10**5),
        n_layer=st.integers(1, 100),
        n_inner=st.none() | st.integers(1, 10**5),
        activation_function=st.sampled_from(ACTIVATION_FUNCTIONS),
        layer_norm_epsilon=st.floats(0, 1, exclude_max=True),
        resid_pdrop=st.floats(0, 1, exclude_max=True),
        **{flag: st.booleans() for flag in FLAGS},
    )
)
def test_a_config_round_trips_through_its_file(config: GPT2Config) -> None:
    assert GPT2Config.from_hf(config.to_hf()) == config
