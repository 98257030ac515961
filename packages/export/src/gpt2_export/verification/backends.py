"""The backends that can run a frozen folder, behind one call: ids and a cache in, logits and a cache out."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gpt2_model import GPT2, GPT2Config
from gpt2_model.checkpoint import read_json

from gpt2_export.errors import FolderError, GraphError
from gpt2_export.graphs import kinds
from gpt2_export.graphs.explain import EXPLAIN
from gpt2_export.graphs.export import Kind
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.graphs.serving import SERVING
from gpt2_export.precision.precision import FP32, Precision
from gpt2_export.telemetry import load_onnxruntime
from gpt2_export.verification.sweep import Case, Ids
from gpt2_export.weights.network import WEIGHTS

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Step = Callable[[Ids, Ids, Ids, Any], tuple[np.ndarray, Any]]
"""(input_ids (B, T), attention_mask (B, P+T), position_ids (B, T), cache or None) -> (logits (B, T, V), cache)."""


def read(step: Step, case: Case) -> np.ndarray:
    """The logits (B, T, V) of a case's second call."""
    ids, mask, positions, cache = case.input_ids, case.attention_mask, case.position_ids, None
    if case.past:
        before = slice(0, case.past)
        _, cache = step(ids[:, before], mask[:, before], positions[:, before], None)
    return step(ids[:, case.past :], mask, positions[:, case.past :], cache)[0]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A way to run a folder; opened when its turn comes, so that only one holds the weights at a time."""

    name: str
    open: Callable[[Path], Step]


def scratch(folder: Path) -> Step:
    """The scratch network in PyTorch."""
    return stepped(GPT2.from_pretrained(folder))


def stepped(model: GPT2) -> Step:
    """A loaded scratch network."""

    @torch.no_grad()
    def step(input_ids: Ids, attention_mask: Ids, position_ids: Ids, cache: Any) -> tuple[np.ndarray, Any]:
        ids, mask, positions = map(torch.from_numpy, (input_ids, attention_mask, position_ids))
        logits, cache = model(ids, cache, mask, positions)
        return logits.numpy(), cache

    return step


def transformers(folder: Path) -> Step:
    """transformers' own GPT-2."""
    library: Any = importlib.import_module("transformers")
    library.utils.logging.disable_progress_bar()
    # Eager: the only implementation that honours reorder_and_upcast_attn.
    try:
        model = library.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    except Exception as error:  # any: it reads fields of config.json that we do not
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise FolderError(
            f"transformers cannot open the frozen checkpoint: {reason}; correct its config.json"
        ) from error
    model.eval()
    options = {"use_cache": True, "return_dict": False, "output_attentions": False, "output_hidden_states": False}

    @torch.no_grad()
    def step(input_ids: Ids, attention_mask: Ids, position_ids: Ids, cache: Any) -> tuple[np.ndarray, Any]:
        ids, mask, positions = map(torch.from_numpy, (input_ids, attention_mask, position_ids))
        # Positional: releases of transformers differ in the cache's name.
        logits, cache = model(ids, cache, attention_mask=mask, position_ids=positions, **options)
        return logits.numpy(), cache

    return step


def portable(folder: Path, precision: Precision | None = None) -> Step:
    """The portable graph in onnxruntime, on the CPU; float32 by default."""
    config, session = open_graph(PORTABLE, folder, precision)
    names, outputs = list(PORTABLE.inputs(config)), list(PORTABLE.outputs(config))

    def step(input_ids: Ids, attention_mask: Ids, position_ids: Ids, cache: Any) -> tuple[np.ndarray, Any]:
        if cache is None:
            nothing = np.zeros((input_ids.shape[0], config.n_head, 0, config.head_size), np.float32)
            cache = [nothing] * (2 * config.n_layer)
        feeds = dict(zip(names, (input_ids, attention_mask, position_ids, *cache), strict=True))
        logits, *present = session.run(outputs, feeds)
        return logits, present

    return step


def serving(folder: Path, precision: Precision | None = None) -> Step:
    """The serving graph in onnxruntime, on the CPU; it is fed each row's text without the padding."""
    config, session = open_graph(SERVING, folder, precision)
    cache_type = SERVING.specs(config, precision)[0]["past_key_values.0.key"].type.numpy()
    pasts = [name for name in SERVING.inputs(config) if name.startswith("past_key_values.")]
    slot = (config.n_head, config.n_positions, config.head_size)

    def step(input_ids: Ids, attention_mask: Ids, position_ids: Ids, cache: Any) -> tuple[np.ndarray, Any]:
        text = attention_mask[:, -input_ids.shape[1] :] == 1  # (B, T)
        if cache is None:
            cache = {name: np.zeros((len(text), *slot), cache_type) for name in pasts}, np.zeros(len(text), np.int32)
        slots, lengths = cache
        counts = text.sum(axis=1, dtype=np.int32)  # (B,)
        logits = np.full((*text.shape, config.vocab_size), np.nan, np.float32)
        # In one batch the operator reads one token per row, or any number if no row has a past.
        together = counts.all() and (not lengths.any() or (counts == 1).all())
        for rows in [slice(None)] if together else [slice(row, row + 1) for row in np.flatnonzero(counts)]:
            here, count, length = text[rows], counts[rows], lengths[rows] + counts[rows]
            filled = np.arange(count.max()) < count[:, None]  # (rows, T): the text, moved to the left
            ids, positions = np.zeros((2, *filled.shape), np.int64)
            ids[filled], positions[filled] = input_ids[rows][here], position_ids[rows][here]
            feeds = {
                "input_ids": ids,
                "position_ids": positions,
                "seqlens_k": length - 1,
                "total_sequence_length": np.array(length.max()),
                "logits_index": np.flatnonzero(filled),
            }
            logits[rows][here] = _run_in_place(session, feeds, {name: slots[name][rows] for name in pasts})
        return logits, (slots, lengths + counts)

    return step


def _run_in_place(
    session: "InferenceSession", feeds: dict[str, np.ndarray], pasts: dict[str, np.ndarray]
) -> np.ndarray:
    """The logits of a step that updates the cache in place."""
    binding = session.io_binding()
    binding.bind_output("logits")
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name, array in pasts.items():
        shared = load_onnxruntime().OrtValue.ortvalue_from_numpy(array)
        assert shared.data_ptr() == array.ctypes.data  # in a copy the step's writes would be lost
        binding.bind_ortvalue_input(name, shared)
        binding.bind_ortvalue_output(name.replace("past_key_values", "present"), shared)
    session.run_with_iobinding(binding)
    return np.asarray(binding.get_outputs()[0].numpy())


def graph(kind: str, folder: Path, precision: Precision | None = None) -> Step:
    """The folder's graph of this kind."""
    return GRAPHS[kind](folder, precision)


def open_graph(kind: Kind, folder: Path, precision: Precision | None = None) -> tuple[GPT2Config, "InferenceSession"]:
    """The network's config, and its graph in onnxruntime, on the CPU.

    Raises:
        GraphError: onnxruntime cannot load it.
    """
    onnxruntime = load_onnxruntime()
    path = folder / kinds.file_of(kind, precision)
    options = onnxruntime.SessionOptions()
    if kind is EXPLAIN:  # else the head is packed again for each layer
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base
        links = [each for each in (folder / WEIGHTS, path) if each.is_symlink()]
        if links:
            raise GraphError(
                f"{links[0]} is a link to {os.path.realpath(links[0])}, and onnxruntime reads weights only beside the "
                f"graph; copy the folder with `cp -rL`"
            ) from error
        raise GraphError(f"onnxruntime cannot load {path}: {error}") from error
    return GPT2Config.from_hf(read_json(folder / "config.json")), session


# The explain graph has no steps: see `explain_parity.py`.
GRAPHS: dict[str, Callable[[Path, Precision | None], Step]] = {PORTABLE.name: portable, SERVING.name: serving}


def available(folder: Path) -> tuple[Backend, ...]:
    """The backends that can run a folder; first the scratch network, the reference for the others."""
    from importlib.metadata import version

    backends = [Backend(name=f"torch {version('torch')}", open=scratch)]
    if importlib.util.find_spec("transformers"):
        backends.append(Backend(name=f"transformers {version('transformers')}", open=transformers))
    for kind in (kind for kind in kinds.graphs_in(folder).get(FP32, {}) if kind in GRAPHS):
        backends.append(Backend(name=f"onnxruntime {version('onnxruntime')} cpu, {kind}", open=partial(graph, kind)))
    return tuple(backends)
