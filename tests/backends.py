"""Every implementation behind one `Step`: transformers, the scratch network, the graphs in onnxruntime, the runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpt2_model import GPT2
from gpt2_runtime import KeyValueCache, Session
from gpt2_runtime.providers.providers import load_onnxruntime
from sweep import Array, Step
from transformers import GPT2LMHeadModel

onnxruntime = load_onnxruntime()

torch.set_num_threads(1)  # these networks are too small to gain from a second thread


def positions(mask: Array, new: int) -> Array:
    """The position of each new token in its row's text: (B, P+T) -> (B, T)."""
    return np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -new:]


def transformers(network: GPT2LMHeadModel) -> Step:
    @torch.no_grad()
    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        places = torch.from_numpy(positions(mask, ids.shape[1]))
        logits, cache = network(  # positional: releases of transformers differ in the cache's name
            torch.from_numpy(ids),
            cache,
            attention_mask=torch.from_numpy(mask),
            position_ids=places,
            use_cache=True,
            return_dict=False,
        )
        return logits.numpy(), cache

    return step


def scratch(model: GPT2) -> Step:
    @torch.no_grad()
    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        logits, cache = model(torch.from_numpy(ids), cache, torch.from_numpy(mask))
        return logits.numpy(), cache

    return step


def opened(path: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def graph(path: Path | bytes) -> Step:
    """A portable graph in plain onnxruntime on the CPU, using only its input and output names."""
    session = opened(path)
    pasts = {node.name: node.shape for node in session.get_inputs() if node.name.startswith("past_key_values.")}

    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        if cache is None:
            cache = {name: np.zeros((len(ids), shape[1], 0, shape[3]), np.float32) for name, shape in pasts.items()}
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask, ids.shape[1])}
        names = ["logits", *(name.replace("past_key_values", "present") for name in pasts)]
        logits, *presents = session.run(names, feeds | cache)
        return logits, dict(zip(pasts, presents, strict=True))

    return step


def serving(path: Path | bytes, cache_length: int) -> Step:
    """A serving graph in plain onnxruntime on the CPU: each row's text alone, over a cache of NaN."""
    session = opened(path)
    pasts = {node.name: node.shape for node in session.get_inputs() if node.name.startswith("past_key_values.")}
    half = {node.type for node in session.get_inputs()} >= {"tensor(float16)"}
    element = np.float16 if half else np.float32

    def call(texts: list[Array], lengths: Array, slots: dict[str, Array]) -> Array:
        """The logits (N, V) of the rows' new text, row by row; the slots are written in place."""
        counts = np.array([len(text) for text in texts], np.int32)
        ids = np.stack([np.pad(text, (0, counts.max() - len(text))) for text in texts])  # (B, T)
        places = [row * ids.shape[1] + column for row, count in enumerate(counts) for column in range(count)]
        binding = session.io_binding()
        binding.bind_output("logits")
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("position_ids", lengths[:, None] + np.arange(ids.shape[1]))
        binding.bind_cpu_input("seqlens_k", lengths.astype(np.int32) + counts - 1)
        binding.bind_cpu_input("total_sequence_length", np.array(max(lengths + counts), np.int32))
        binding.bind_cpu_input("logits_index", np.array(places))
        for name, array in slots.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            assert value.data_ptr() == array.ctypes.data, "the graph would write a copy"
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        session.run_with_iobinding(binding)
        logits: Array = binding.get_outputs()[0].numpy()
        return logits

    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        if cache is None:
            shape = {name: (len(ids), heads, cache_length, size) for name, (_, heads, _, size) in pasts.items()}
            cache = {name: np.full(shape[name], np.nan, element) for name in pasts}, np.zeros(len(ids), np.int64)
        slots, lengths = cache
        text = mask[:, -ids.shape[1] :] == 1  # (B, T)
        counts = text.sum(axis=1)
        if (counts == 1).all() or (counts.all() and not lengths.any()):
            groups = [slice(0, len(ids))]
        else:  # the operator cannot read these in one batch
            groups = [slice(row, row + 1) for row in range(len(ids)) if counts[row]]
        logits = np.full((*ids.shape, session.get_outputs()[0].shape[1]), np.nan, np.float32)
        for group in groups:
            texts = [row[here] for row, here in zip(ids[group], text[group], strict=True)]
            logits[group][text[group]] = call(texts, lengths[group], {name: slots[name][group] for name in pasts})
        return logits, (slots, lengths + counts)

    return step


def below(session: Session) -> Step:
    """A session's own graph in plain onnxruntime."""
    folder = session.bundle.folder
    if session.graph == "serving":
        return serving(folder / "model_serving.onnx", session.bundle.architecture.n_positions)
    return graph(folder / "model.onnx")


def runtime(session: Session) -> Step:
    """The runtime's session: each row's text alone, rows of any lengths (of one length on the portable graph)."""

    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        text = mask[:, -ids.shape[1] :] == 1  # (B, T)
        rows = [row[here] for row, here in zip(ids, text, strict=True)]
        logits, cache = _scored(session, rows, session.empty_cache(len(ids)) if cache is None else cache)
        return _placed(logits, text), cache

    return step


def restless(session: Session) -> Step:
    """The same with detours: reads other text first and rolls back, then part of each row, then the rest."""
    rng = np.random.default_rng(0)
    sizes = session.bundle.architecture

    def counts(most: list[int]) -> list[int]:
        """A number from 0 to `most` for each row; the portable graph's rows are of one length."""
        if session.graph == "portable":
            return [int(rng.integers(min(most) + 1))] * len(most)
        return [int(rng.integers(limit + 1)) for limit in most]

    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        cache = session.empty_cache(len(ids)) if cache is None else cache
        text = mask[:, -ids.shape[1] :] == 1
        rows = [row[here] for row, here in zip(ids, text, strict=True)]
        before = cache.lengths
        room = [min(4, sizes.n_positions - length) for length in before]
        _, cache = _scored(session, [rng.integers(sizes.vocab_size, size=count) for count in counts(room)], cache)
        cache = cache.crop(before)
        cuts = counts([len(row) for row in rows])
        first, cache = _scored(session, [row[:cut] for row, cut in zip(rows, cuts, strict=True)], cache)
        second, cache = _scored(session, [row[cut:] for row, cut in zip(rows, cuts, strict=True)], cache)
        return _placed([np.concatenate(parts) for parts in zip(first, second, strict=True)], text), cache

    return step


def shuffled(session: Session) -> Step:
    """The same in shuffled rows: each row is read twice, once with another text, and either copy takes its place."""
    rng = np.random.default_rng(0)

    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        cache = session.empty_cache(len(ids)) if cache is None else cache
        text = mask[:, -ids.shape[1] :] == 1
        rows = [row[here] for row, here in zip(ids, text, strict=True)]
        before = cache.lengths
        _, cache = _scored(session, rows, cache)
        twice = rng.permutation([*range(len(rows))] * 2)
        cache = cache.reorder(twice).crop([before[row] for row in twice])
        chosen = [int(rng.choice(np.flatnonzero(twice == row))) for row in range(len(rows))]
        others = [rng.integers(session.bundle.architecture.vocab_size, size=len(rows[row])) for row in twice]
        read = [rows[row] if place in chosen else others[place] for place, row in enumerate(twice)]
        scored, cache = _scored(session, read, cache)
        return _placed([scored[place] for place in chosen], text), cache.reorder(chosen)

    return step


def _scored(session: Session, rows: list[Array], cache: KeyValueCache) -> tuple[list[Array], KeyValueCache]:
    """One step, or none if there is nothing to read: for each row the logits (T, V) of all its tokens."""
    counts = [len(row) for row in rows]
    if not any(counts):
        return [np.zeros((0, session.bundle.architecture.vocab_size), np.float32) for _ in rows], cache
    logits, cache = session.step(rows, cache, max(counts))
    return [row[max(counts) - count :] for row, count in zip(logits, counts, strict=True)], cache


def _placed(rows: list[Array], text: Array) -> Array:
    """Each row's logits at its text, NaN at its padding: (B, T, V)."""
    logits = np.full((*text.shape, rows[0].shape[1]), np.nan, np.float32)
    for place, row, here in zip(logits, rows, text, strict=True):
        place[here] = row
    return logits
