"""Each implementation as the same `Step`: transformers, the scratch network, the graph in onnxruntime, the runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from gpt2_model import GPT2
from gpt2_runtime import Session
from sweep import Array, Step
from transformers import GPT2LMHeadModel

torch.set_num_threads(1)  # these networks are so small that a second thread costs more than it brings


def positions(mask: Array, new: int) -> Array:
    """The place of each new token in its row's text: (B, P+T) -> (B, T)."""
    return np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -new:]


def transformers(network: GPT2LMHeadModel) -> Step:
    @torch.no_grad()
    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        places = torch.from_numpy(positions(mask, ids.shape[1]))
        out = network(
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        )
        return out.logits.numpy(), out.past_key_values

    return step


def scratch(model: GPT2) -> Step:
    @torch.no_grad()
    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        logits, cache = model(torch.from_numpy(ids), cache, torch.from_numpy(mask))
        return logits.numpy(), cache

    return step


def graph(path: Path | bytes) -> Step:
    """A portable graph in plain onnxruntime on the CPU, by the names of its inputs and outputs alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    pasts = {node.name: node.shape for node in session.get_inputs() if node.name.startswith("past_key_values.")}

    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        if cache is None:
            cache = {name: np.zeros((len(ids), shape[1], 0, shape[3]), np.float32) for name, shape in pasts.items()}
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask, ids.shape[1])}
        names = ["logits", *(name.replace("past_key_values", "present") for name in pasts)]
        logits, *presents = session.run(names, feeds | cache)
        return logits, dict(zip(pasts, presents, strict=True))

    return step


def runtime(session: Session) -> Step:
    """The runtime's session, which reads no padding."""

    def step(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        assert mask.all()
        return session.step(ids, session.empty_cache(len(ids)) if cache is None else cache)

    return step
