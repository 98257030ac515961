"""The checkpoint's tensors as numpy arrays, for the converters written here without torch."""

import json
from pathlib import Path
from typing import Any


def read_config(checkpoint: str) -> dict[str, Any]:
    """The fields of config.json."""
    return dict(json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8")))


def read_tensors(checkpoint: str) -> dict[str, Any]:
    """Every tensor under its name without transformers' prefix."""
    from safetensors.numpy import load_file

    tensors = load_file(Path(checkpoint) / "model.safetensors")
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def dummy_tokens(count: int) -> list[str]:
    """A vocabulary for formats that need one: the benchmark has only ids.

    >>> dummy_tokens(3)
    ['t0', 't1', 't2']
    """
    return [f"t{index}" for index in range(count)]
