"""nanoGPT's ckpt.pt: its model_args hold what transformers keeps in config.json."""

from collections.abc import Mapping
from typing import Any

from gpt2_model.config import ALIASES
from gpt2_model.errors import ConfigError
from gpt2_model.quoting import listed, shown

# model_args -> config.json. nanoGPT's LayerNorm uses GPT-2's epsilon; its head is tied.
SIZES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
}
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
FIXED = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "layer_norm_epsilon": 1e-5}
GELU = (
    "ckpt.pt does not say which GELU it was trained with: using the exact one, as nanoGPT does; for the tanh "
    'one (older nanoGPT, tuned GPT-2), put a config.json with "activation_function": "gelu_new" beside it'
)


def config(model_args: object, document: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of a ckpt.pt merged with the config.json beside it, and the warnings.

    Args:
        model_args: from the checkpoint.
        document: the config.json beside it, empty if there is none. It must not contradict model_args, but its
            vocab_size may be smaller: nanoGPT pads the embedding.

    Raises:
        ConfigError: a size is missing, an argument is not nanoGPT's, or config.json has a different size.

    >>> args = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 16, "vocab_size": 64, "bias": True}
    >>> config(args, {"activation_function": "gelu_new"})[0]["n_positions"]
    16
    """
    if not isinstance(model_args, dict):
        raise ConfigError(f"ckpt.pt: model_args is {shown(model_args)}; it must be a table of nanoGPT's settings")
    unknown = sorted(str(name) for name in model_args.keys() - {*SIZES, "bias", "dropout"})
    absent = [name for name in SIZES if model_args.get(name) is None]
    if unknown or absent:
        complaint = f"has {listed(unknown)}, which nanoGPT does not" if unknown else f"lacks {listed(absent)}"
        raise ConfigError(f"ckpt.pt: model_args {complaint}; only nanoGPT's own network is supported")
    stated = FIXED | {name: model_args[argument] for argument, name in SIZES.items()}
    stated |= dict.fromkeys(DROPOUTS, model_args.get("dropout", 0.0))
    added = {ALIASES.get(name, name): value for name, value in document.items() if value is not None}
    for name in SIZES.values():
        if name in added and added[name] != stated[name] and not (name == "vocab_size" and _is_less(added, stated)):
            raise ConfigError(f"config.json: {name} is {shown(added[name])}, ckpt.pt's is {shown(stated[name])}")
    warnings = () if "activation_function" in added else (GELU,)
    return {"activation_function": "gelu"} | stated | added, warnings


def _is_less(added: Mapping[str, Any], stated: Mapping[str, Any]) -> bool:
    sizes = added["vocab_size"], stated["vocab_size"]
    return all(isinstance(size, int) for size in sizes) and sizes[0] < sizes[1]
