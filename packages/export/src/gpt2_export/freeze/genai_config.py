"""genai_config.json: what onnxruntime-genai needs to know about the folder."""

from typing import Any

from gpt2_model import GPT2Config

GRAPH = "model.onnx"


def config(model: GPT2Config, document: dict[str, Any]) -> dict[str, Any]:
    """The content of genai_config.json for a model whose config.json holds `document`.

    The type is "decoder": "gpt2" would expect each layer's keys and values packed into one tensor.
    """
    eos = document.get("eos_token_id")
    pad = document.get("pad_token_id")
    tokens = {"bos_token_id": document.get("bos_token_id"), "eos_token_id": eos}
    # It pads batches and needs some token for that; the mask hides which one.
    tokens["pad_token_id"] = pad if pad is not None else (next(iter(eos), None) if isinstance(eos, list) else eos)
    return {
        "model": {
            "type": "decoder",
            "vocab_size": model.vocab_size,
            "context_length": model.n_positions,
            **{name: token for name, token in tokens.items() if token not in (None, [])},
            "decoder": {
                "filename": GRAPH,
                "hidden_size": model.n_embd,
                "head_size": model.head_size,
                "num_attention_heads": model.n_head,
                "num_key_value_heads": model.n_head,
                "num_hidden_layers": model.n_layer,
                "session_options": {"provider_options": []},
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": model.n_positions, "past_present_share_buffer": False},
    }
