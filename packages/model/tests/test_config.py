"""`GPT2Config`: what exists is valid, and every field of a config.json counts, has no effect, or is refused."""

import dataclasses
import math
import re
from typing import Any

import pytest
from gpt2_model import ConfigError, GPT2Config
from gpt2_model.config import ACTIVATION_FUNCTIONS, ALIASES, NO_EFFECT_ON_LOGITS, REQUIRED_VALUES, is_known
from hypothesis import given
from hypothesis import strategies as st

SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
FLAGS = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_word_embeddings")
RATES = ("resid_pdrop", "embd_pdrop", "attn_pdrop")

# As OpenAI's 124M model is published on the hub.
PUBLISHED = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
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
def test_only_the_inner_size_may_be_left_open(size: str) -> None:
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
    assert not unchecked, "a new field needs its test of bad values above"


@pytest.mark.parametrize("value", ["quick_gelu", "GELU", "", None, 3])
def test_an_activation_is_one_of_those_known_which_the_refusal_lists(value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(value))) as caught:
        GPT2Config(activation_function=value)  # type: ignore[arg-type]
    assert all(name in str(caught.value) for name in ACTIVATION_FUNCTIONS)


def test_the_heads_share_the_width_without_remainder() -> None:
    with pytest.raises(ConfigError, match="n_embd is 10, not a multiple of n_head, 4"):
        GPT2Config(n_embd=10, n_head=4)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPT2Config().n_layer = 3  # type: ignore[misc]


def test_sizes_are_given_by_name_only() -> None:
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
    assert GPT2Config.from_hf(PUBLISHED) == GPT2Config()


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_means_the_field(alias: str, name: str) -> None:
    assert getattr(GPT2Config.from_hf(hf(**{alias: 24})), name) == 24
    assert getattr(GPT2Config.from_hf(hf(**{alias: 24, name: 24})), name) == 24


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_at_odds_with_the_field_is_refused_in_either_order(alias: str, name: str) -> None:
    for fields in ({alias: 24, name: 36}, {name: 36, alias: 24}):
        message = refusal(**fields)
        assert name in message
        assert "24" in message
        assert "36" in message


def test_n_ctx_stands_for_n_positions_where_that_is_absent() -> None:
    assert GPT2Config.from_hf(hf(n_ctx=512)).n_positions == 512
    assert GPT2Config.from_hf(hf(n_ctx=512, n_positions=512)).n_positions == 512


@pytest.mark.parametrize("name", ["n_positions", "max_position_embeddings"])
def test_n_ctx_at_odds_with_n_positions_is_refused_in_either_order(name: str) -> None:
    for fields in ({"n_ctx": 512, name: 1024}, {name: 1024, "n_ctx": 512}):
        message = refusal(**fields)
        assert "512" in message
        assert "1024" in message


def test_an_unknown_field_is_refused_with_its_value_unless_ignored_by_name() -> None:
    message = refusal(rope_theta=10000)
    assert "rope_theta" in message
    assert "10000" in message
    assert GPT2Config.from_hf(hf(rope_theta=10000), ignore={"rope_theta"}) == GPT2Config()


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
def test_arithmetic_that_is_not_done_here_is_refused_by_name(fields: dict[str, Any]) -> None:
    ((name, value),) = fields.items()
    message = refusal(**fields)
    assert name in message
    assert str(value)[:20] in message


@pytest.mark.parametrize("name", sorted(REQUIRED_VALUES))
def test_a_field_that_asks_for_what_is_done_anyway_is_taken(name: str) -> None:
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


@pytest.mark.parametrize("name", sorted(NO_EFFECT_ON_LOGITS))
def test_a_field_without_effect_may_hold_anything(name: str) -> None:
    assert GPT2Config.from_hf(hf(**{name: ["anything"]})) == GPT2Config()


def test_a_field_is_known_if_it_is_judged_by_itself() -> None:
    judged = {field.name for field in dataclasses.fields(GPT2Config)}.union(
        ALIASES, REQUIRED_VALUES, NO_EFFECT_ON_LOGITS
    )
    assert all(map(is_known, judged))
    assert not is_known("rope_theta")
    assert not is_known("auto_map")


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_either_name_of_the_stored_type_is_read_past(name: str) -> None:
    assert GPT2Config.from_hf(hf(**{name: "float16"})) == GPT2Config()


def test_bad_values_are_refused_from_a_file_too() -> None:
    assert "n_layer is 0" in refusal(n_layer=0)
    assert "layer_norm_epsilon is None" in refusal(layer_norm_epsilon=None)


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
def test_a_config_comes_back_from_its_own_file(config: GPT2Config) -> None:
    assert GPT2Config.from_hf(config.to_hf()) == config
