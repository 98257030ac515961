"""Converts other layouts: wrapped names, other heads, Linear matrices, no biases, a padded vocabulary.

Each function takes a checkpoint's tensors and returns them under the names and in the layout of `weights.TABLE`, with
a warning about what it did. Nothing is copied: a transposed matrix is a view of its file.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gpt2_model.errors import SourceError, TensorError
from gpt2_model.foreign import MERGE
from gpt2_model.quoting import listed, name_shown

Tensors = Mapping[str, Callable[[], Tensor]]
Read = tuple[Tensors, tuple[str, ...]]

# Prefix of every name in a checkpoint saved from a wrapper -> the wrapper.
PREFIXES = {
    "module.": "DataParallel",
    "_orig_mod.": "torch.compile",
    "base_model.model.": "PEFT",
    "pretrained_model.": "TRL",
    "_forward_module.": "Lightning",
    "_fsdp_wrapped_module.": "FullyShardedDataParallel",
    "model.": "a wrapping module",
}

# Inner part of the names where parts of the model were wrapped -> the wrapper. None is a name in GPT-2.
INNER = {
    "_orig_mod.": "torch.compile",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_fsdp_wrapped_module.": "FullyShardedDataParallel",
}

# Other heads -> what they are. A classifier has a language model head only if the file has one.
HEADS = {
    r"v_head\..+": "TRL's value head",
    r"multiple_choice_head\..+": "GPT2DoubleHeadsModel's second head",
    r"summary\..+": "a sequence summary head",
}
CLASSIFIERS = {
    r"score\..+": "GPT2ForSequenceClassification",
    r"classifier\..+": "GPT2ForTokenClassification",
    r"qa_outputs\..+": "GPT2ForQuestionAnswering",
}
CLASSIFIER_CLASS = re.compile(r"\w+For(Sequence|Token)Classification|\w+ForQuestionAnswering")
LANGUAGE_MODELS = re.compile(r"\w*(LMHead\w*|DoubleHeadsModel|CausalLM\w*)")
HEAD = re.compile(r"lm_head\.(decoder\.)?weight")

ADAPTERS = re.compile(r"\b(lora_|base_layer\.|modules_to_save\.|original_module\.|ia3_l\b|hada_w\d)")

# The matrices of a block: [in, out] in transformers' Conv1D, [out, in] in torch's Linear (nanoGPT, minGPT).
MATRIX = re.compile(r"(?:transformer\.)?h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
BIASED = re.compile(
    r"((?:transformer\.)?(?:h\.\d+\.(?:ln_1|ln_2|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)|ln_f))\.weight"
)
EMBEDDING = re.compile(r"(transformer\.)?wte\.weight")
PADDED_TO, PADDED_BY = 64, 128  # embedding rows: a multiple of 64, fewer than 128 more than the vocabulary


def as_transformers(tensors: Tensors, config: Mapping[str, Any], where: object, *, linear: bool = False) -> Read:
    """The tensors under transformers' names and in its layout, and the warnings.

    Args:
        tensors: as stored in the files.
        config: config.json; its architectures decide whether the model is a classifier.
        where: the source's name, for messages.
        linear: the source's matrices are known to be Linear's.

    Raises:
        SourceError: the tensors are an adapter or a classifier.
        TensorError: some names have a wrapper's prefix and others do not.
    """
    refuse_adapter(tensors, where)
    tensors, unwrapped = without_prefixes(tensors, where)
    tensors, whole = without_inner(tensors, where)
    tensors, beheaded = without_other_heads(tensors, config, where)
    tensors, transposed = turned(tensors, stated=linear)
    tensors, cut = without_padding(tensors, config)
    return tensors, unwrapped + whole + beheaded + transposed + cut


def refuse_adapter(tensors: Tensors, where: object) -> None:
    """Raises SourceError for the tensors of an adapter that is not merged into the model."""
    adapters = [name for name in tensors if ADAPTERS.search(name)]
    if adapters:
        raise SourceError(f"{where} holds an adapter that is not merged ({listed(adapters)}); {MERGE}")


def without_inner(tensors: Tensors, where: object) -> Read:
    """The tensors without the inner names that wrapped blocks leave.

    >>> names, _ = without_inner({"h.0._orig_mod.ln_1.bias": print}, "x")
    >>> list(names)
    ['h.0.ln_1.bias']
    """
    inner = [part for part in INNER if any(f".{part}" in name for name in tensors)]
    shorter = dict(tensors)
    for part in inner:
        shorter = {name.replace(f".{part}", "."): tensor for name, tensor in shorter.items()}
    if len(shorter) < len(tensors):
        raise TensorError(f"{where}: names are the same without {inner[0]}; save the model without its wrapper")
    warning = [f"tensor names contain {part}, left by {INNER[part]}; it was removed" for part in inner]
    return shorter, tuple(warning)


def without_prefixes(tensors: Tensors, where: object) -> Read:
    """The tensors without the prefixes of any number of wrappers.

    >>> names, _ = without_prefixes({"module._orig_mod.wte.weight": print}, "x")
    >>> list(names)
    ['wte.weight']
    """
    stripped: list[str] = []
    while prefix := next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in tensors)), None):
        own = [name for name in tensors if not _head_of(name)]  # TRL keeps its head outside the wrapped model
        bare = [name for name in own if not name.startswith(prefix)]
        if bare:
            raise TensorError(
                f"{where}: {len(own) - len(bare)} of {len(own)} tensor names begin with {prefix}, a prefix left by "
                f"{PREFIXES[prefix]}, and the others do not ({listed(bare)}); save the model without its wrapper"
            )
        shorter = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        if len(shorter) < len(tensors):
            raise TensorError(f"{where}: names are the same without {prefix}; save the model without its wrapper")
        tensors, stripped = shorter, [*stripped, prefix]
    whose = ", ".join(PREFIXES[prefix] for prefix in stripped)
    warning = f"every tensor name begins with {''.join(stripped)}, a prefix left by {whose}; it was removed"
    return tensors, (warning,) if stripped else ()


def without_other_heads(tensors: Tensors, config: Mapping[str, Any], where: object) -> Read:
    """The language model of a checkpoint that has another head too.

    Raises:
        SourceError: it is a classifier without a language model head, or its config.json names no class.
    """
    others = {name: whose for name in tensors if (whose := _head_of(name))}
    classes = config.get("architectures")
    classes = [each for each in classes if isinstance(each, str)] if isinstance(classes, list) else []
    if not any(HEAD.fullmatch(name) for name in tensors):
        classifiers = [each for each in classes if CLASSIFIER_CLASS.fullmatch(each)]
        scores = [name for name, whose in others.items() if whose in CLASSIFIERS.values()]
        if classifiers or (scores and not any(LANGUAGE_MODELS.fullmatch(each) for each in classes)):
            what = name_shown(classifiers[0]) if classifiers else f"{others[scores[0]]} ({listed(scores)})"
            raise SourceError(
                f"{where} is a classifier, {what}: it has no language model head; "
                "name the language model it was made from"
            )
    language_model = {name: tensor for name, tensor in tensors.items() if name not in others}
    warning = (
        f"{listed(others)} {'was' if len(others) == 1 else 'were'} left out: {', '.join(sorted({*others.values()}))}"
    )
    return language_model, (warning,) if others else ()


def turned(tensors: Tensors, *, stated: bool) -> Read:
    """Linear matrices transposed to Conv1D's layout, and zero biases for a model without biases.

    A square matrix looks the same both ways, so no tensor is judged alone: the source states that it uses Linear, or
    every c_attn shows it (three times as wide as high, so never square) and no c_fc contradicts it.
    """
    matrices = [name for name in tensors if MATRIX.fullmatch(name)]
    if not matrices or not (stated or _are_linear({name: tensors[name]().shape for name in matrices})):
        return tensors, ()
    read = {name: _transposed(tensor) if name in matrices else tensor for name, tensor in tensors.items()}
    warning = "matrices are stored [out, in], as in torch's Linear (nanoGPT, minGPT); each was transposed"
    layers = {match[1]: name for name in tensors if (match := BIASED.fullmatch(name))}
    if any(f"{layer}.bias" in tensors for layer in layers):
        return read, (warning,)
    zeros = {f"{layer}.bias": _zeros(tensors[name]) for layer, name in layers.items()}
    return read | zeros, (warning, "there are no biases, as in nanoGPT with bias=False; zeros were used")


def without_padding(tensors: Tensors, config: Mapping[str, Any]) -> Read:
    """The embedding and the head without the rows that pad them to a multiple of 64, as nanoGPT and llm.c do.

    config.json must state the smaller number.
    """
    size = config.get("vocab_size")
    padded = {name for name in tensors if EMBEDDING.fullmatch(name) or HEAD.fullmatch(name)}
    rows = max((shape[0] for name in padded if (shape := tensors[name]().shape)), default=0)
    if not isinstance(size, int) or not 0 < size < rows < size + PADDED_BY or rows % PADDED_TO:
        return tensors, ()
    cut = {name: _first_rows(tensor, size) if name in padded else tensor for name, tensor in tensors.items()}
    warning = (
        f"the embedding has {rows} rows, config.json's vocab_size is {size}; the rows beyond it were cut as padding"
    )
    return cut, (warning,)


def _head_of(name: str) -> str:
    """The head that a tensor belongs to; empty if it is the language model's."""
    return next((whose for head, whose in (HEADS | CLASSIFIERS).items() if re.fullmatch(head, name)), "")


def _are_linear(shapes: Mapping[str, torch.Size]) -> bool:
    attention = {shape for name, shape in shapes.items() if name.endswith("c_attn.weight")}
    if len(attention) != 1 or (width := _linear_width(*attention)) is None:
        return False
    return all(len(shape) == 2 and _may_be_linear(name, shape, width) for name, shape in shapes.items())


def _linear_width(shape: torch.Size) -> int | None:
    return shape[1] if len(shape) == 2 and shape[0] == 3 * shape[1] else None


def _may_be_linear(name: str, shape: torch.Size, width: int) -> bool:
    """Whether a matrix may be [out, in] in a network of this width: c_fc reads the stream, both c_proj write to it."""
    return shape[1] == width if name.endswith("c_fc.weight") else "c_attn" in name or shape[0] == width


def _transposed(tensor: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: stored.t() if (stored := tensor()).dim() == 2 else stored


def _zeros(weight: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: torch.zeros((stored := weight()).shape[:1], dtype=stored.dtype)


def _first_rows(tensor: Callable[[], Tensor], rows: int) -> Callable[[], Tensor]:
    return lambda: tensor()[:rows]
