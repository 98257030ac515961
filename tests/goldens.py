"""Published values of published checkpoints (golden/gpt2.json), and a check for each kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gpt2_model import GPT2
from sweep import Array, Step, greedy
from torch.nn import functional as F

Golden = dict[str, Any]
DOCUMENT = json.loads((Path(__file__).parent / "golden" / "gpt2.json").read_text(encoding="utf-8"))


class Tokenizer(Protocol):
    """Text <-> ids."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


def of(config: dict[str, Any]) -> list[Golden]:
    """The goldens of the published model with these sizes; none for any other."""
    for name, sizes in DOCUMENT["models"].items():
        if all(config.get(size) == sizes[size] for size in ("n_layer", "n_embd")):
            return [golden for golden in DOCUMENT["goldens"] if golden["model"] == name]
    return []


def check(golden: Golden, step: Step, tokenizer: Tokenizer) -> None:
    """Raises AssertionError if a backend does not reproduce a golden."""
    ids = golden.get("ids") or tokenizer.encode(golden["text"])
    CHECKS[golden["check"]](golden, ids, step, tokenizer)


def last_row(golden: Golden, ids: list[int], step: Step, _: Tokenizer) -> None:
    """The logits after the last token: the likeliest tokens in order, and the row's statistics."""
    row = logits(step, ids)[-1]
    top = np.argsort(-row)[: len(golden["top_ids"])]
    assert top.tolist() == golden["top_ids"]
    assert_close(row[top], golden["top_logits"], golden["atol"])
    for name, figure in (("largest", row.max()), ("smallest", row.min()), ("mean", row.mean()), ("std", row.std())):
        if name in golden:
            assert_close(figure, golden[name], golden["atol"])


def loss(golden: Golden, ids: list[int], step: Step, _: Tokenizer) -> None:
    """The mean loss of each token after the first, in nats."""
    surprises = -log_softmax(logits(step, ids))[np.arange(len(ids) - 1), ids[1:]]
    assert_close(surprises.mean(), golden["loss"], golden["atol"])


def log_probabilities(golden: Golden, ids: list[int], step: Step, _: Tokenizer) -> None:
    """The log-probabilities of the tokens from `first_new` on."""
    log_probs = log_softmax(logits(step, ids))
    places = range(golden["first_new"], golden["first_new"] + len(golden["log_probabilities"]))
    assert_close([log_probs[place - 1, ids[place]] for place in places], golden["log_probabilities"], golden["atol"])


def greedy_ids(golden: Golden, ids: list[int], step: Step, _: Tokenizer) -> None:
    assert list(greedy(step, ids, len(golden["new_ids"]))) == golden["new_ids"]


def greedy_text(golden: Golden, ids: list[int], step: Step, tokenizer: Tokenizer) -> None:
    """Decodes until the text is complete; comparing encoded ids would be wrong, since other tokens can spell it."""
    new_ids, text = [], ""
    for token in greedy(step, ids, len(golden["new_text"].encode())):  # a token is at least a byte
        new_ids.append(token)
        text = tokenizer.decode(new_ids)
        if len(text) >= len(golden["new_text"]):
            break
    assert text == golden["new_text"]


CHECKS: dict[str, Callable[[Golden, list[int], Step, Tokenizer], None]] = {
    "last row": last_row,
    "loss": loss,
    "log-probabilities": log_probabilities,
    "greedy ids": greedy_ids,
    "greedy text": greedy_text,
}


def check_training(golden: Golden, model: GPT2) -> None:
    """The losses of AdamW on one batch, without dropout: a golden for the backward pass. Changes the model."""
    ids = torch.tensor(golden["ids"])
    inputs, targets = ids[:-1].view(golden["rows"], -1), ids[1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for _ in golden["losses"]:
        logits, _ = model(inputs)
        if not losses:
            assert_close(logits[0, 0, 0].item(), golden["first_logit"], golden["atol"])
        surprise = F.cross_entropy(logits.flatten(0, 1), targets)
        losses.append(surprise.item())
        optimizer.zero_grad()
        surprise.backward()
        optimizer.step()
    assert_close(losses, golden["losses"], golden["atol"])


def logits(step: Step, ids: list[int]) -> Array:
    """(T, V), in double precision for later arithmetic."""
    return step(np.array([ids]), np.ones((1, len(ids)), dtype=np.int64), None)[0][0].astype(np.float64)


def log_softmax(rows: Array) -> Array:
    shifted = rows - rows.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def assert_close(actual: Any, expected: Any, atol: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)
