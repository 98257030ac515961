"""A pickle of tensors, loaded by torch's weights-only unpickler, alone or in what a trainer wraps it in."""

import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2_model.errors import WeightFileError
from gpt2_model.quoting import listed, name_shown

# The keys under which trainers keep the state dict: Lightning and many scripts, nanoGPT, DeepSpeed.
TABLES = ("state_dict", "model_state_dict", "model", "module")
DEEPEST = 3  # levels of nesting; a pickle may contain itself


@dataclass(frozen=True, kw_only=True)
class PickleFile:
    """The contents of a pickle: its state dict, everything else, and warnings about the latter."""

    tensors: dict[str, Callable[[], Tensor]]
    beside: Mapping[str, Any]
    warnings: tuple[str, ...]


def read(path: Path) -> PickleFile:
    """The tensors of a pickle, memory-mapped if its format allows.

    Raises:
        WeightFileError: it is damaged, would run code, or does not hold exactly one state dict.
    """
    content = _load(path)
    keys: list[str] = []
    beside: dict[str, Any] = {}
    while not _is_table(content):
        tables = [key for key in TABLES if isinstance(content, dict) and isinstance(content.get(key), dict)]
        if len(tables) > 1:
            raise WeightFileError(f"{path} holds several state dicts, {listed(tables)}; save the one you mean alone")
        if not tables or len(keys) == DEEPEST:
            there = f" (it holds {listed([str(key) for key in content])})" if isinstance(content, dict) else ""
            raise WeightFileError(f"{path} is not a state dict{there}; save the model's state_dict() alone")
        beside |= {str(key): value for key, value in content.items() if key != tables[0]}
        content, keys = content[tables[0]], [*keys, tables[0]]
    odd = [f"{name_shown(str(name))} ({form})" for name, tensor in content.items() if (form := _form(tensor))]
    if odd:
        raise WeightFileError(
            f"{path} holds {', '.join(odd[:3])}, only dense tensors of numbers are read; save it with those (to_dense)"
        )
    warning = f"{path.name}: the weights were read from {'.'.join(keys)}" if keys else ""
    left_out = f"; left out: {listed(sorted(beside.keys() - {'model_args'}))}" if beside else ""
    return PickleFile(
        tensors={str(name): partial(Tensor.detach, tensor) for name, tensor in content.items()},
        beside=beside,
        warnings=(warning + left_out,) if warning else (),
    )


def _load(path: Path) -> Any:
    try:
        # Only the zip format can be mapped; the files of 2019 use the older one.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on unsafe loading is the opposite of ours
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler may raise anything
        raise WeightFileError(
            f"{path} cannot be loaded as weights only: it is damaged, or holds more than tensors and "
            "could run code; convert it to safetensors on a machine where that is safe"
        ) from error


def _is_table(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())


def _form(tensor: Tensor) -> str:
    """The kind of a tensor that is not a plain array; empty if it is one.

    >>> _form(torch.eye(2).to_sparse()), _form(torch.ones(1).expand(9)), _form(torch.eye(2))
    ('sparse_coo', 'expanded', '')
    """
    if tensor.is_meta:
        return "meta"
    if tensor.is_nested:  # some claim to be strided
        return "nested"
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    # One stored number may be expanded beyond any memory.
    return "expanded" if tensor.nbytes > tensor.untyped_storage().nbytes() else ""
