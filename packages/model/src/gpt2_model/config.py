"""`GPT2Config`: the numbers and flags that decide what the network computes, and nothing else."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from gpt2_model.errors import ConfigError

ACTIVATION_FUNCTIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", "relu", "silu", "swish")

LARGEST_SIZE = 2**31  # of one axis; far above any model, and below what overflows an index

# config.json may use the generic name of a size, which transformers reads too, or the old second name of n_positions.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "n_ctx": "n_positions",
}

# Fields that would change the arithmetic, with the only value under which they do not.
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

# How to sample: what generation_config.json holds today. Where that is absent, transformers reads it in config.json.
# fmt: off
GENERATION_FIELDS = frozenset((
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens",
))

# Fields that cannot change a logit.
NO_EFFECT_ON_LOGITS = GENERATION_FIELDS | frozenset((
    # provenance and names
    "_name_or_path", "_commit_hash", "architectures", "transformers_version", "transformers_weights",
    "tokenizer_class", "license", "finetuning_task",
    # how the file stores numbers; the file itself says it too, and is believed
    "dtype", "torch_dtype",
    # which implementation transformers picks, and what it returns
    "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "torchscript", "use_cache",
    "gradient_checkpointing", "output_attentions", "output_hidden_states", "output_past", "output_scores",
    "return_dict", "use_return_dict", "return_dict_in_generate", "is_decoder", "cross_attention_hidden_size",
    "tf_legacy_loss",
    # special tokens: for the tokenizer and for the decode loop
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id",
    "prefix",
    # other heads than the language model's
    "id2label", "label2id", "num_labels", "_num_labels", "problem_type", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    # how pipelines sampled, by task
    "task_specific_params",
    # another runtime's own settings
    "transformers.js_config",
))
# fmt: on


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """Sizes and flags of a GPT-2; the defaults are the published 124M model's.

    Field names are those of Hugging Face's config.json. An instance that exists is valid: every value is checked on
    construction and none can be changed afterwards (use `dataclasses.replace`).

    Raises:
        ConfigError: a value is of the wrong type, out of range, or at odds with another.

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
                raise ConfigError(f"{flag} is {getattr(self, flag)!r}; it must be true or false")
        for rate in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            _check_number(rate, getattr(self, rate), low=0.0, below=1.0)
        _check_number("layer_norm_epsilon", self.layer_norm_epsilon, low=0.0, below=1.0)
        _check_number("initializer_range", self.initializer_range, low=0.0, below=math.inf)
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd is {self.n_embd}, not a multiple of n_head, {self.n_head}; every head needs the same size"
            )
        if self.activation_function not in ACTIVATION_FUNCTIONS:
            raise ConfigError(
                f"activation_function is {self.activation_function!r}; known are {', '.join(ACTIVATION_FUNCTIONS)}"
            )

    @property
    def head_size(self) -> int:
        """D, the width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def inner_size(self) -> int:
        """Width of the MLP's hidden layer: `n_inner`, or four times `n_embd` where that is not set."""
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
        """Reads the content of a Hugging Face config.json; each field counts, or has no effect, or is refused.

        Args:
            document: the parsed JSON object.
            ignore: names of fields, unknown here, that the caller knows not to change the logits.

        Raises:
            ConfigError: a field is unknown, or asks for arithmetic that is not done here; all such fields are named.

        >>> GPT2Config.from_hf({"model_type": "gpt2", "n_layer": 6, "use_cache": True}).n_layer
        6
        >>> GPT2Config.from_hf({"model_type": "gpt2", "add_cross_attention": True})
        Traceback (most recent call last):
            ...
        gpt2_model.errors.ConfigError: config.json: add_cross_attention is True, only False is computed here
        """
        own = {field.name for field in fields(cls)}
        given: dict[str, Any] = {}
        complaints = [] if "model_type" in document else ["model_type is absent, it must be 'gpt2'"]
        for key, value in document.items():
            name = ALIASES.get(key, key)
            if name in own:
                if given.setdefault(name, value) != value:
                    complaints.append(f"{key} is {value!r} but {name} is {given[name]!r}")
            elif key in REQUIRED_VALUES:
                if value != REQUIRED_VALUES[key] and not (not value and not REQUIRED_VALUES[key]):
                    complaints.append(f"{key} is {value!r}, only {REQUIRED_VALUES[key]!r} is computed here")
            elif key not in NO_EFFECT_ON_LOGITS and key not in ignore:
                complaints.append(
                    f"{key} is unknown ({_shortened(value)}); if no logit depends on it, ignore it by name"
                )
        if complaints:
            raise ConfigError("config.json: " + "; ".join(complaints))
        return cls(**given)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads back as the same model.

        >>> GPT2Config.from_hf(GPT2Config(n_layer=2).to_hf()) == GPT2Config(n_layer=2)
        True
        """
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **own}


def is_known(name: str) -> bool:
    """Whether a field of config.json is one that `from_hf` judges by itself."""
    own = {field.name for field in fields(GPT2Config)}
    return name in own or name in ALIASES or name in REQUIRED_VALUES or name in NO_EFFECT_ON_LOGITS


def _check_size(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < LARGEST_SIZE:
        raise ConfigError(f"{name} is {_shortened(value)}; it must be a whole number from 1 to below {LARGEST_SIZE:,}")


def _check_number(name: str, value: object, *, low: float, below: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value < below:
        raise ConfigError(f"{name} is {value!r}; it must be a number from {low} to below {below}")


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
