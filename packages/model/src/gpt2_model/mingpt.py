"""minGPT's model.pt: the config.json beside it names a model type or its sizes."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from gpt2_model.errors import ConfigError
from gpt2_model.quoting import shown

# minGPT's model types: layers, heads, width.
KINDS = {
    "openai-gpt": (12, 12, 768),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
    "gopher-44m": (8, 16, 512),
    "gpt-mini": (6, 6, 192),
    "gpt-micro": (4, 4, 128),
    "gpt-nano": (3, 3, 48),
}
SIZES = ("n_layer", "n_head", "n_embd")
DROPOUTS = ("embd_pdrop", "resid_pdrop", "attn_pdrop")
FIXED = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": False,
}


def is_config(document: Mapping[str, Any]) -> bool:
    """Whether a config.json is minGPT's: it has a model and a trainer, and no model_type at its top level."""
    return "model_type" not in document and isinstance(document.get("model"), dict) and "trainer" in document


def config(document: Mapping[str, Any], tensors: Mapping[str, Callable[[], Tensor]]) -> dict[str, Any]:
    """minGPT's config.json in transformers' fields.

    minGPT writes it before it knows the data, so the sizes of vocabulary and context come from the tensors.

    Raises:
        ConfigError: it has neither a known model_type nor all the sizes.
    """
    model = document["model"]
    kind = model.get("model_type")
    sizes = KINDS.get(kind) if isinstance(kind, str) else None
    stated = {name: model.get(name) for name in SIZES} if sizes is None else dict(zip(SIZES, sizes, strict=True))
    if None in stated.values():
        raise ConfigError(
            f"config.json is minGPT's, and its model_type is {shown(kind)}; known are {', '.join(KINDS)}, or n_layer, "
            "n_head and n_embd"
        )
    for name, table in (("vocab_size", "transformer.wte.weight"), ("n_positions", "transformer.wpe.weight")):
        shape = tensors[table]().shape if table in tensors else ()
        if shape:
            stated[name] = shape[0]
    return FIXED | stated | {name: model[name] for name in DROPOUTS if model.get(name) is not None}
