"""Three ways to run the same frozen folder, behind one call: ids and a cache in, logits and a cache out."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from gpt2_model import GPT2, GPT2Config
from gpt2_model.checkpoint import read_json

from gpt2_export.errors import GraphError
from gpt2_export.graph import GRAPH, input_names, output_names
from gpt2_export.sweep import Ids

Step = Callable[[Ids, Ids, Ids, Any], tuple[np.ndarray, Any]]
"""(input_ids (B, T), attention_mask (B, P+T), position_ids (B, T), cache or None) -> (logits (B, T, V), cache)."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Something that can run a folder; opened when its turn comes, so that only one holds the weights at a time."""

    name: str
    open: Callable[[Path], Step]


def scratch(folder: Path) -> Step:
    """The scratch network in PyTorch."""
    model = GPT2.from_pretrained(folder)

    @torch.no_grad()
    def step(input_ids: Ids, attention_mask: Ids, position_ids: Ids, cache: Any) -> tuple[np.ndarray, Any]:
        ids, mask, positions = map(torch.from_numpy, (input_ids, attention_mask, position_ids))
        logits, cache = model(ids, cache, mask, positions)
        return logits.numpy(), cache

    return step


def transformers(folder: Path) -> Step:
    """transformers' own GPT-2, where it is installed."""
    library: Any = importlib.import_module("transformers")
    library.utils.logging.disable_progress_bar()
    # Eager, for only that implementation honours reorder_and_upcast_attn.
    model = library.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    @torch.no_grad()
    def step(input_ids: Ids, attention_mask: Ids, position_ids: Ids, cache: Any) -> tuple[np.ndarray, Any]:
        ids, mask, positions = map(torch.from_numpy, (input_ids, attention_mask, position_ids))
        out = model(ids, past_key_values=cache, attention_mask=mask, position_ids=positions, use_cache=True)
        return out.logits.numpy(), out.past_key_values

    return step


def onnx_runtime(folder: Path) -> Step:
    """The portable graph in onnxruntime, on the CPU."""
    config = GPT2Config.from_hf(read_json(folder / "config.json"))
    try:
        session = onnxruntime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base but this
        raise GraphError(f"onnxruntime does not load {folder / GRAPH}: {error}") from error
    names = input_names(config)
    outputs = output_names(config)

    def step(input_ids: Ids, attention_mask: Ids, position_ids: Ids, cache: Any) -> tuple[np.ndarray, Any]:
        if cache is None:
            nothing = np.zeros((input_ids.shape[0], config.n_head, 0, config.head_size), np.float32)
            cache = [nothing] * (2 * config.n_layer)
        feeds = dict(zip(names, (input_ids, attention_mask, position_ids, *cache), strict=True))
        logits, *present = session.run(outputs, feeds)
        return logits, present

    return step


def available() -> tuple[Backend, ...]:
    """The scratch network first: the others are held to it."""
    from importlib.metadata import version

    found = [Backend(name=f"torch {version('torch')}", open=scratch)]
    if importlib.util.find_spec("transformers"):
        found.append(Backend(name=f"transformers {version('transformers')}", open=transformers))
    found.append(Backend(name=f"onnxruntime {onnxruntime.__version__} cpu", open=onnx_runtime))
    return tuple(found)
