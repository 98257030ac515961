"""Other layouts than transformers': wrapped names, other heads, Linear matrices, no biases, a padded vocabulary.

Each function takes a checkpoint's tensors and gives them under the names and in the layout of `weights.TABLE`, with
a warning of what it did. Nothing is copied: a matrix is turned as a view of its file.
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

# What stands before every name where a wrapper was saved in place of the model in it -> whose it is.
PREFIXES = {
    "module.": "DataParallel",
    "_orig_mod.": "torch.compile",
    "base_model.model.": "PEFT",
    "pretrained_model.": "TRL",
    "_forward_module.": "Lightning",
    "_fsdp_wrapped_module.": "FullyShardedDataParallel",
    "model.": "a wrapping module",
}

# What stands within names where parts of the model were wrapped -> whose it is. Nothing of GPT-2's is called so.
INNER = {
    "_orig_mod.": "torch.compile",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_fsdp_wrapped_module.": "FullyShardedDataParallel",
}

# Heads beside the language model's, and whose they are. A classifier has no language model's head unless it is there.
HEADS = {
    r"v_head\..+": "TRL's value head",
    r"multiple_choice_head\..+": "GPT2DoubleHeadsModel's second head",
    r"summary\..+": "a head that sums up a sequence",
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

# The matrices of a block. transformers' Conv1D keeps each [in, out], torch's Linear (nanoGPT, minGPT) [out, in].
MATRIX = re.compile(r"(?:transformer\.)?h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
BIASED = re.compile(
    r"((?:transformer\.)?(?:h\.\d+\.(?:ln_1|ln_2|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)|ln_f))\.weight"
)
EMBEDDING = re.compile(r"(transformer\.)?wte\.weight")
PADDED_TO, PADDED_BY = 64, 128  # rows of an embedding: a multiple of the one, fewer than the other more than tokens


def as_transformers(tensors: Tensors, config: Mapping[str, Any], where: object, *, linear: bool = False) -> Read:
    """The tensors as transformers names and keeps them, and what was done to them.

    Args:
        tensors: as the files hold them.
        config: of config.json; its architectures decide whether a classifier is beside a language model.
        where: they come from, for messages.
        linear: the source says that its matrices are Linear's.

    Raises:
        SourceError: the tensors are an adapter's, or a classifier's alone.
        TensorError: some names have a wrapper's prefix and others not.
    """
    refuse_adapter(tensors, where)
    tensors, unwrapped = without_prefixes(tensors, where)
    tensors, whole = without_inner(tensors, where)
    tensors, beheaded = without_other_heads(tensors, config, where)
    tensors, transposed = turned(tensors, stated=linear)
    tensors, cut = without_padding(tensors, config)
    return tensors, unwrapped + whole + beheaded + transposed + cut


def refuse_adapter(tensors: Tensors, where: object) -> None:
    """Raises SourceError where tensors are those of an adapter that is not merged into the model."""
    adapters = [name for name in tensors if ADAPTERS.search(name)]
    if adapters:
        raise SourceError(f"{where} holds an adapter that is not merged ({listed(adapters)}); {MERGE}")


def without_inner(tensors: Tensors, where: object) -> Read:
    """The names without what the wrapping of single blocks leaves within them.

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
    """The names without what wrappers put before all of them, however many wrappers there were.

    >>> names, _ = without_prefixes({"module._orig_mod.wte.weight": print}, "x")
    >>> list(names)
    ['wte.weight']
    """
    stripped: list[str] = []
    while prefix := next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in tensors)), None):
        own = [name for name in tensors if not _head_of(name)]  # TRL keeps its head beside the wrapped model
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
    """The language model of a checkpoint with another head beside it.

    Raises:
        SourceError: it is a classifier, which has no language model's head: config.json says so, or says nothing.
    """
    others = {name: whose for name in tensors if (whose := _head_of(name))}
    classes = config.get("architectures")
    classes = [each for each in classes if isinstance(each, str)] if isinstance(classes, list) else []
    if not any(HEAD.fullmatch(name) for name in tensors):
        said = [each for each in classes if CLASSIFIER_CLASS.fullmatch(each)]
        scores = [name for name, whose in others.items() if whose in CLASSIFIERS.values()]
        if said or (scores and not any(LANGUAGE_MODELS.fullmatch(each) for each in classes)):
            what = name_shown(said[0]) if said else f"{others[scores[0]]} ({listed(scores)})"
            raise SourceError(
                f"{where} is a classifier, {what}: it has no language model head; "
                "name the language model it was made from"
            )
    kept = {name: tensor for name, tensor in tensors.items() if name not in others}
    warning = (
        f"{listed(others)} {'was' if len(others) == 1 else 'were'} left out: {', '.join(sorted({*others.values()}))}"
    )
    return kept, (warning,) if others else ()


def turned(tensors: Tensors, *, stated: bool) -> Read:
    """Linear's matrices as Conv1D's, and zeros for the biases that a model without any has.

    A square matrix looks the same both ways, so no tensor is judged alone: that a file's layout is Linear's is stated
    by its source, or seen from every c_attn in it (thrice as wide as high, so never square) with no c_fc against it.
    """
    matrices = [name for name in tensors if MATRIX.fullmatch(name)]
    if not matrices or not (stated or _are_linear({name: tensors[name]().shape for name in matrices})):
        return tensors, ()
    read = {name: _transposed(tensor) if name in matrices else tensor for name, tensor in tensors.items()}
    warning = "matrices are stored [out, in], as torch's Linear keeps them (nanoGPT, minGPT); each was transposed"
    layers = {match[1]: name for name in tensors if (match := BIASED.fullmatch(name))}
    if any(f"{layer}.bias" in tensors for layer in layers):
        return read, (warning,)
    zeros = {f"{layer}.bias": _zeros(tensors[name]) for layer, name in layers.items()}
    return read | zeros, (warning, "there are no biases, as in nanoGPT with bias=False; zeros were used")


def without_padding(tensors: Tensors, config: Mapping[str, Any]) -> Read:
    """The embedding and the head without the rows that only fill it up to a multiple of 64, as nanoGPT and llm.c do.

    The smaller number must be stated in config.json.
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
    """Whose head a tensor is, where it is not the language model's."""
    return next((whose for head, whose in (HEADS | CLASSIFIERS).items() if re.fullmatch(head, name)), "")


def _are_linear(shapes: Mapping[str, torch.Size]) -> bool:
    attention = {shape for name, shape in shapes.items() if name.endswith("c_attn.weight")}
    if len(attention) != 1 or (width := _linear_width(*attention)) is None:
        return False
    return all(len(shape) == 2 and _may_be_linear(name, shape, width) for name, shape in shapes.items())


def _linear_width(shape: torch.Size) -> int | None:
    return shape[1] if len(shape) == 2 and shape[0] == 3 * shape[1] else None


def _may_be_linear(name: str, shape: torch.Size, width: int) -> bool:
    """Whether a matrix may be [out, in] in a network of a width: c_fc reads the stream, both c_proj write to it."""
    return shape[1] == width if name.endswith("c_fc.weight") else "c_attn" in name or shape[0] == width


def _transposed(tensor: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: stored.t() if (stored := tensor()).dim() == 2 else stored


def _zeros(weight: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: torch.zeros((stored := weight()).shape[:1], dtype=stored.dtype)


def _first_rows(tensor: Callable[[], Tensor], rows: int) -> Callable[[], Tensor]:
    return lambda: tensor()[:rows]
