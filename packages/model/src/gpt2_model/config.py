"""`GPT2Config`: the sizes and flags that decide what the network computes."""

import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from gpt2_model.errors import CheckpointWarning, ConfigError
from gpt2_model.inert_fields import INERT
from gpt2_model.quoting import name_shown, shown

ACTIVATION_FUNCTIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", "relu", "silu", "swish")

MAX_UNKNOWN_SHOWN = 4  # unknown fields listed in one message
LARGEST_SIZE = 2**31  # of one axis: far above any model, below what overflows an index

# Generic names of sizes, which transformers also reads.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

# Fields that would change the arithmetic, each with the only value that does not.
REQUIRED_VALUES: dict[str, Any] = {
    "model_type": "gpt2",
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "chunk_size_feed_forward": 0,
    "tie_encoder_decoder": False,
    "use_bfloat16": False,
    "attention_head_type": "multihead",
    "multi_query": False,
}

# Fields that mean the weights are not what they seem, and what to do.
REFUSED_FIELDS = {
    "quantization_config": (
        "the weights are quantized, and only unquantized weights are read; save the model unquantized "
        "(model.dequantize(), then save_pretrained), or name the checkpoint it was made from"
    ),
    "auto_map": (
        "the model may come with its own code; if that computes the same as GPT-2, pass "
        'ignore=("auto_map",) (--ignore-config auto_map)'
    ),
}


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """Sizes and flags of a GPT-2; the defaults are the published 124M model's.

    Field names are those of Hugging Face's config.json. Every instance is valid: values are checked on
    construction and cannot be changed afterwards (use `dataclasses.replace`).

    Raises:
        ConfigError: a value has the wrong type, is out of range, or contradicts another.

    >>> GPT2Config().head_size
    64
    >>> GPT2Config(n_embd=100, n_head=12)
    Traceback (most recent call last):
        ...
    gpt2_model.errors.ConfigError: n_embd is 100, not a multiple of n_head, 12; every head needs the same size
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for size in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            _check_size(size, getattr(self, size))
        if self.n_inner is not None:
            _check_size("n_inner", self.n_inner)
        for flag in (field.name for field in fields(self) if field.type is bool):
            if not isinstance(getattr(self, flag), bool):
                raise ConfigError(f"{flag} is {shown(getattr(self, flag))}; it must be true or false")
        for rate in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            _check_number(rate, getattr(self, rate), low=0.0, below=1.0)
        _check_number("layer_norm_epsilon", self.layer_norm_epsilon, low=0.0, below=1.0)
        _check_number("initializer_range", self.initializer_range, low=0.0, below=math.inf)
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd is {self.n_embd}, not a multiple of n_head, {self.n_head}; every head needs the same size"
            )
        if self.activation_function not in ACTIVATION_FUNCTIONS:
            known = ", ".join(ACTIVATION_FUNCTIONS)
            raise ConfigError(f"activation_function is {shown(self.activation_function)}; known are {known}")

    @property
    def head_size(self) -> int:
        """D, the width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def inner_size(self) -> int:
        """Width of the MLP's hidden layer: `n_inner`, or 4 * `n_embd` if that is not set."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def attention_scale(self, layer: int) -> float:
        """The factor on the attention scores of `layer` (counted from 0).

        >>> GPT2Config().attention_scale(3)
        0.125
        >>> GPT2Config(scale_attn_by_inverse_layer_idx=True).attention_scale(3)
        0.03125
        """
        scale = self.head_size**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @classmethod
    def from_hf(cls, document: Mapping[str, Any], *, ignore: Collection[str] = ()) -> "GPT2Config":
        """Reads a Hugging Face config.json; every field is used, known to have no effect, or refused.

        A null field counts as absent. Anything that may not be read as intended raises a warning.

        Args:
            document: the parsed JSON object.
            ignore: unknown fields to skip; only if they cannot change the logits.

        Raises:
            ConfigError: a field is unknown, or needs arithmetic that is not implemented; all such fields are named.

        >>> GPT2Config.from_hf({"model_type": "gpt2", "n_layer": 6, "use_cache": True}).n_layer
        6
        >>> GPT2Config.from_hf({"model_type": "gpt2", "add_cross_attention": True})
        Traceback (most recent call last):
            ...
        gpt2_model.errors.ConfigError: config.json: add_cross_attention is True, only False is computed here
        """
        config, remarks = read_hf(document, ignore=ignore)
        for remark in remarks:
            warnings.warn(remark, CheckpointWarning, stacklevel=2)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads back as the same model.

        >>> GPT2Config.from_hf(GPT2Config(n_layer=2).to_hf()) == GPT2Config(n_layer=2)
        True
        """
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **own}


def read_hf(document: Mapping[str, Any], *, ignore: Collection[str] = ()) -> tuple[GPT2Config, tuple[str, ...]]:
    """The config that `GPT2Config.from_hf` returns, and the text of its warnings.

    >>> read_hf({"model_type": "gpt2", "n_positions": 64, "n_ctx": 32})[1]
    ('config.json: n_ctx is 32 but n_positions is 64, which decides, as in transformers',)
    """
    own = {field.name for field in fields(GPT2Config)}
    values: dict[str, Any] = {}
    remarks, unknown = [], []
    complaints = [] if document.get("model_type") is not None else ["model_type is absent, it must be 'gpt2'"]
    for key, value in document.items():
        name = ALIASES.get(key, key)
        if value is None:
            if name in own and name != "n_inner":
                remarks.append(f"config.json: {key} is null, read as absent")
        elif name in own:
            if values.setdefault(name, value) != value:
                complaints.append(f"{key} is {shown(value)} but {name} is {shown(values[name])}")
        elif key in REQUIRED_VALUES:
            if value != REQUIRED_VALUES[key] and (value or REQUIRED_VALUES[key]):
                complaints.append(f"{key} is {shown(value)}, only {REQUIRED_VALUES[key]!r} is computed here")
        elif key in REFUSED_FIELDS and key not in ignore:
            complaints.append(f"{key} is {shown(value)}: {REFUSED_FIELDS[key]}")
        elif not is_known(key) and key not in ignore:
            unknown.append(key)
    n_ctx = document.get("n_ctx")  # the second name of n_positions until transformers 4, which stopped reading it
    if n_ctx is not None and values.setdefault("n_positions", n_ctx) != n_ctx:
        conflict = f"n_ctx is {shown(n_ctx)} but n_positions is {shown(values['n_positions'])}"
        remarks.append(f"config.json: {conflict}, which decides, as in transformers")
    if unknown:
        complaints.append(_unknown(unknown, document))
    if complaints:
        raise ConfigError("config.json: " + "; ".join(complaints))
    return GPT2Config(**values), tuple(remarks)


def is_known(name: str) -> bool:
    """Whether `from_hf` knows this field of config.json."""
    return name in _known()


def _known() -> set[str]:
    own = {field.name for field in fields(GPT2Config)}
    return own.union(ALIASES, REQUIRED_VALUES, INERT, ("n_ctx",))


def _unknown(names: list[str], document: Mapping[str, Any]) -> str:
    """The message for unknown fields: their values, the nearest known names, and how to ignore them."""
    first = names[:MAX_UNKNOWN_SHOWN]
    described = []
    for name in first:
        near = get_close_matches(name[:60], _known(), n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else ""
        described.append(f"{name_shown(name)} is unknown ({shown(document[name])}{hint})")
    if len(names) > len(first):
        described.append(f"and {len(names) - len(first)} more are")
    options = " ".join(f"--ignore-config {name_shown(name)}" for name in first)
    return (
        f"{', '.join(described)}; if no logit depends on {'it' if len(names) == 1 else 'them'}, pass "
        f"ignore=({', '.join(map(shown, first))},) ({options})"
    )


def _check_size(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < LARGEST_SIZE:
        raise ConfigError(f"{name} is {shown(value)}; it must be a whole number from 1 to below {LARGEST_SIZE:,}")


def _check_number(name: str, value: object, *, low: float, below: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value < below:
        raise ConfigError(f"{name} is {shown(value)}; it must be a number from {low} to below {below}")
