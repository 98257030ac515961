"""genai_config.json has what onnxruntime-genai was observed to need."""

from typing import Any

import pytest
from gpt2_export.freeze import genai_config
from gpt2_export.graphs.portable import PORTABLE
from gpt2_model import GPT2Config

CONFIG = GPT2Config(vocab_size=300, n_positions=24, n_embd=16, n_layer=2, n_head=2)


def model_section(**document: Any) -> dict[str, Any]:
    return dict(genai_config.config(CONFIG, document)["model"])


def test_sizes_are_the_networks() -> None:
    section = model_section()
    assert (section["type"], section["vocab_size"], section["context_length"]) == ("decoder", 300, 24)
    sizes = ("hidden_size", "head_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers")
    assert [section["decoder"][size] for size in sizes] == [16, 8, 2, 2, 2]
    assert section["decoder"]["filename"] == PORTABLE.file == "model.onnx"


def test_names_are_the_portable_graphs() -> None:
    decoder = model_section()["decoder"]
    for part, names in (("inputs", PORTABLE.inputs(CONFIG)), ("outputs", PORTABLE.outputs(CONFIG))):
        patterns = decoder[part].values()
        assert {pattern % layer if "%d" in pattern else pattern for pattern in patterns for layer in (0, 1)} == (
            set(names)
        )


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, {}),
        ({"eos_token_id": 7}, {"eos_token_id": 7, "pad_token_id": 7}),
        ({"eos_token_id": [8, 9]}, {"eos_token_id": [8, 9], "pad_token_id": 8}),
        ({"eos_token_id": 7, "pad_token_id": 0}, {"eos_token_id": 7, "pad_token_id": 0}),
        ({"bos_token_id": 0, "eos_token_id": None}, {"bos_token_id": 0}),
    ],
)
def test_special_tokens_come_from_config_and_padding_falls_back_to_the_end_of_text(
    document: dict[str, Any], expected: dict[str, Any]
) -> None:
    section = model_section(**document)
    assert {name: value for name, value in section.items() if name.endswith("_token_id")} == expected


def test_an_empty_list_of_end_tokens_gives_no_padding_token() -> None:
    assert "pad_token_id" not in model_section(eos_token_id=[])


def test_the_search_length_is_the_context_and_its_cache_is_not_shared() -> None:
    assert genai_config.config(CONFIG, {})["search"] == {"max_length": 24, "past_present_share_buffer": False}
