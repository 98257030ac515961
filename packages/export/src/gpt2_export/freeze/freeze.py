"""A checkpoint -> a frozen folder: one float32 file under transformers' names, its config, its tokenizer."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpt2_model.checkpoint import Checkpoint, read_json
from gpt2_model.config import ALIASES, is_known
from gpt2_model.errors import ConfigError, TensorError
from gpt2_model.inert_fields import GENERATION_FIELDS
from gpt2_model.quoting import shown
from gpt2_model.weights import WeightPlan, plan_weights, stored_name
from torch import Tensor

from gpt2_export.freeze import end_of_text, genai_config, tokenizer_files
from gpt2_export.progress import Progress, silent
from gpt2_export.weights import safetensors_file

WEIGHTS = "model.safetensors"
# Without this transformers.js picks another precision: in a browser it looks for int8.
TRANSFORMERS_JS = {"dtype": "fp32"}
ROWS_AT_ONCE = 4096  # rows of a float64 tensor compared with their float32 at once
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
# Fields that keep transformers from opening a folder: an old name, tuples, weights in another file.
UNOPENED = {"use_return_dict", "return_dict", "transformers_weights"}


def freeze(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    ignore_config: Collection[str] = (),
    eos: Sequence[int | str] = (),
    progress: Progress = silent,
) -> list[str]:
    """Writes the frozen checkpoint into an empty folder; returns warnings.

    `eos` overrides the configs' tokens that end a text, each by id or as the tokenizer spells it.

    Raises:
        GPT2Error: the checkpoint is refused, before any tensor is written unless one is not finite.
    """
    _refuse_needless(checkpoint, ignore_config)
    plan = plan_weights(checkpoint, ignore_config=ignore_config)
    forms = {
        stored_name(entry.parameter): safetensors_file.Form(tuple(checkpoint.tensors[entry.stored_name]().shape))
        for entry in plan.entries
    }
    rounded: dict[str, float] = {}
    safetensors_file.write(folder / WEIGHTS, forms, _arrays(checkpoint, plan, progress, rounded))
    config = _config(checkpoint, plan, ignore_config)
    generation = _generation_config(checkpoint, config)
    tokenizer_made = tokenizer_files.copy(checkpoint.folder, folder, config)
    if eos:
        stops = end_of_text.chosen(eos, tokenizer_made, plan.config.vocab_size)
        config[end_of_text.FIELD] = generation[end_of_text.FIELD] = stops
    tokens, warnings = _special_tokens(config, generation, plan.config.vocab_size)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "genai_config.json", genai_config.config(plan.config, tokens))
    warnings += [*plan.warnings, *_rounding_warnings(rounded)]
    warnings += [f"config.json: {name} was left out, as requested" for name in ignore_config]
    return [*warnings, *tokenizer_made.warnings, *([] if eos else _unended(tokenizer_made, config, generation))]


def _unended(made: tokenizer_files.Made, config: dict[str, Any], generation: dict[str, Any]) -> list[str]:
    name, document = (
        ("generation_config.json", generation) if end_of_text.FIELD in generation else ("config.json", config)
    )
    return end_of_text.warnings(made, document.get(end_of_text.FIELD), name)


def frozen_bytes(checkpoint: Checkpoint) -> int:
    """The approximate size of the frozen weights."""
    return sum(safetensors_file.FLOAT32_BYTES * tensor().numel() for tensor in checkpoint.tensors.values())


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes JSON indented as transformers does."""
    try:
        text = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ConfigError(
            f"{path.name} has {half!a}, which is half a surrogate pair; write it as valid Unicode"
        ) from error
    path.write_bytes(text)


def _refuse_needless(checkpoint: Checkpoint, ignored: Collection[str]) -> None:
    """A field to ignore must exist, and must be one that would be refused as unknown."""
    for name in ignored:
        if name not in checkpoint.config:
            raise ConfigError(f"config.json has no field {name!r} to ignore; check its spelling")
        if is_known(name):
            raise ConfigError(f"{name} is a known field that counts; it cannot be ignored")


def _arrays(
    checkpoint: Checkpoint, plan: WeightPlan, progress: Progress, rounded: dict[str, float]
) -> Iterator[np.ndarray]:
    """Each tensor in float32; `rounded` collects the largest relative change of each that was rounded."""
    total = len(plan.entries)
    for done, entry in enumerate(plan.entries):
        progress("freeze", done, total)
        stored = checkpoint.tensors[entry.stored_name]()
        tensor = stored.to(torch.float32)
        strange = tensor.numel() - int(tensor.isfinite().sum())
        if strange:
            raise TensorError(_not_finite(checkpoint, entry.stored_name, stored, strange))
        if stored.dtype == torch.float64:
            rounded[entry.stored_name] = _largest_share(stored, tensor)
        yield tensor.numpy()
    progress("freeze", total, total)


def _not_finite(checkpoint: Checkpoint, name: str, stored: Tensor, strange: int) -> str:
    too_large = int(stored.isfinite().sum()) - (stored.numel() - strange)
    if too_large:
        return (
            f"{checkpoint.folder}: {name} has {too_large} of {stored.numel()} values beyond float32; "
            "the weights are written in float32"
        )
    return (
        f"{checkpoint.folder}: {name} has {strange} of {stored.numel()} values NaN or infinite; the "
        "checkpoint is damaged, or its training diverged"
    )


def _largest_share(stored: Tensor, tensor: Tensor) -> float:
    """The largest relative change of a value; 1 for one that float32 rounds to 0."""
    rows = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(stored), ROWS_AT_ONCE)]
    shares = ((tensor[each].double() - stored[each]).abs() / stored[each].abs() for each in rows)
    return max(float(share.nan_to_num(nan=0.0).max()) for share in shares)


def _rounding_warnings(rounded: dict[str, float]) -> list[str]:
    """How far float64 weights were rounded; at most half a unit in float32's last place, 6e-8, unless some were tiny.

    >>> _rounding_warnings({"wte.weight": 5.9e-08, "wpe.weight": 0.0})
    ['2 tensors were float64: rounded to float32, which changed no value by more than 5.9e-08 of itself']
    """
    if not rounded:
        return []
    most = max(rounded.values())
    changed = f"no value by more than {most:.1e} of itself" if most else "none of their values"
    count = "1 tensor was" if len(rounded) == 1 else f"{len(rounded)} tensors were"
    return [f"{count} float64: rounded to float32, which changed {changed}"]


def _config(checkpoint: Checkpoint, plan: WeightPlan, ignored: Collection[str]) -> dict[str, Any]:
    """The source's own fields, with those that the frozen weights decide: dtype, head, class, graph."""
    dropped = {"torch_dtype", "_name_or_path", "transformers_version", *ALIASES, *ignored, *UNOPENED}
    # Null means absent, but transformers 5 does not read every field so; for a special token it means none.
    stated = {key: value for key, value in checkpoint.config.items() if value is not None or key.endswith("_token_id")}
    own = {key: value for key, value in stated.items() if key not in dropped}
    if "n_ctx" in own:
        own["n_ctx"] = plan.config.n_positions  # converters read the context length there
    return own | plan.config.to_hf() | {"dtype": "float32", "transformers.js_config": TRANSFORMERS_JS}


def _generation_config(checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, Any]:
    path = checkpoint.folder / "generation_config.json"
    if path.exists():
        return read_json(path)
    fields = (*SPECIAL, *sorted(GENERATION_FIELDS))
    return {key: config[key] for key in fields if config.get(key) is not None}


def _special_tokens(
    config: dict[str, Any], generation: dict[str, Any], vocab_size: int
) -> tuple[dict[str, Any], list[str]]:
    """The ids of the tokens that begin, end and pad text; and warnings about ids outside the vocabulary."""
    tokens: dict[str, Any] = {}
    warnings = []
    for name in SPECIAL:
        value: Any = generation[name] if name in generation else config.get(name)
        listed = isinstance(value, list) and name == "eos_token_id"
        ids: list[Any] = value if listed else [] if value is None else [value]
        if any(isinstance(each, bool) or not isinstance(each, int) for each in ids):
            allowed = "a token id, a list of them or null" if name == "eos_token_id" else "a token id or null"
            raise ConfigError(
                f"{name} is {shown(value)}, must be {allowed}; correct config.json or generation_config.json"
            )
        there = [each for each in ids if 0 <= each < vocab_size]
        if len(there) < len(ids):
            warnings.append(
                f"{name} is {shown(value)}, the vocabulary has ids 0 to {vocab_size - 1}: others are never generated"
            )
        tokens[name] = there if listed else next(iter(there), None)
    return tokens, warnings
