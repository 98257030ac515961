"""Runs a frozen folder in PyTorch, onnxruntime and transformers, and holds each to the scratch network.

The sweep compares logits over shapes (see `sweep.py`); greedy decoding compares what a user would read. One backend
holds the weights at a time, and only the logits of the sweep are kept: the largest models fit.

The tolerance is 1e-4 on a logit. Rounding grows with the numbers that are rounded, and the published models have
logits of -100 and beyond, so above 10 it is 1e-5 of the largest logit.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gpt2_model import GPT2Config
from gpt2_model.checkpoint import read_json

from gpt2_export import backends, interior, kinds
from gpt2_export.errors import VerificationError
from gpt2_export.explaining import EXPLAINING
from gpt2_export.precision import FP32
from gpt2_export.progress import Progress, silent
from gpt2_export.sweep import Case, Ids, cases

ABSOLUTE, RELATIVE = 1e-4, 1e-5
GREEDY_TOKENS = 64
PROMPT_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one backend made of the folder.

    Attributes:
        logits: of each case, (B, T, V).
        greedy_ids: the tokens chosen after the prompt.
        margins: by how much each was ahead of the second, in logits.
    """

    logits: tuple[np.ndarray, ...]
    greedy_ids: tuple[int, ...]
    margins: tuple[float, ...]


def verify(folder: Path, *, progress: Progress = silent) -> dict[str, Any]:
    """The parity report of a frozen folder with its graphs.

    Raises:
        VerificationError: a backend is beyond tolerance; the error carries the report.
    """
    config = GPT2Config.from_hf(read_json(folder / "config.json"))
    sweep = cases(vocab_size=config.vocab_size, n_positions=config.n_positions)
    reference, *others = backends.available(folder)
    total = (len(sweep) + 1) * (1 + len(others))
    with np.errstate(all="ignore"):
        expected = run(reference.open(folder), config, sweep, _Part(progress, 0, total))
    largest = float(np.max([np.abs(logits).max() for logits in expected.logits]))
    tolerance = max(ABSOLUTE, RELATIVE * largest)
    report: dict[str, Any] = {
        "reference": reference.name,
        "tolerance": tolerance,
        "sweep": [case.name for case in sweep],
        "backends": {},
    }
    if not np.isfinite(largest):  # no difference to such a logit means anything, and no tolerance follows from it
        raise VerificationError(f"{reference.name}: a logit is {largest}; the weights overflow float32", report)
    failures = []
    for number, backend in enumerate(others, start=1):
        with np.errstate(all="ignore"):  # what overflows here shows in the figures
            found = run(backend.open(folder), config, sweep, _Part(progress, number * (len(sweep) + 1), total))
            figures = compare(expected, found, sweep)
        report["backends"][backend.name] = figures
        failures += [f"{backend.name}: {failure}" for failure in beyond(figures, tolerance)]
    if EXPLAINING.name in kinds.held(folder).get(FP32, {}):
        report["explaining"] = interior.compare(folder)
        failures += [f"the explaining graph: {failure}" for failure in interior.beyond(report["explaining"])]
    progress("verify", total, total)
    if failures:
        raise VerificationError(f"the folder does not compute what its checkpoint does: {'; '.join(failures)}", report)
    return report


def run(step: backends.Step, config: GPT2Config, sweep: tuple[Case, ...], progress: "_Part") -> Run:
    """The whole sweep and the greedy text on one backend."""
    logits = []
    for number, case in enumerate(sweep):
        progress(number)
        logits.append(_second_call(step, case))
    progress(len(sweep))
    rng = np.random.default_rng(1)
    prompt = rng.integers(config.vocab_size, size=(1, max(1, min(PROMPT_TOKENS, config.n_positions // 2))))
    ids, margins = greedy(step, prompt, min(GREEDY_TOKENS, config.n_positions - prompt.shape[1] + 1))
    return Run(logits=tuple(logits), greedy_ids=ids, margins=margins)


def greedy(step: backends.Step, prompt: Ids, count: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The `count` likeliest tokens after the prompt (1, T), and the margin of each over the second."""
    ids: list[int] = []
    margins: list[float] = []
    unread, length, cache = prompt, 0, None
    for _ in range(count):
        positions = np.arange(length, length + unread.shape[1])[None]
        length += unread.shape[1]
        logits, cache = step(unread, np.ones((1, length), np.int64), positions, cache)
        last = logits[0, -1]
        ids.append(int(last.argmax()))
        margins.append(float(last[ids[-1]] - np.delete(last, ids[-1]).max(initial=-np.inf)))
        unread = np.array([[ids[-1]]])
    return tuple(ids), tuple(margins)


def compare(expected: Run, found: Run, sweep: tuple[Case, ...]) -> dict[str, Any]:
    """The figures of one backend against the reference, over every position that holds text."""
    differences = {}
    divergences, agreements = [], []
    for case, ours, theirs in zip(sweep, expected.logits, found.logits, strict=True):
        text = case.attention_mask[:, case.past :] == 1
        a, b = ours[text], theirs[text]  # (B, T, V) -> (positions with text, V)
        differences[case.name] = float(np.abs(a - b).max())
        divergences.append(kl(a, b))
        agreements.append(a.argmax(axis=-1) == b.argmax(axis=-1))
    worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    same = [a == b for a, b in zip(expected.greedy_ids, found.greedy_ids, strict=True)]
    agreed = same.index(False) if False in same else len(same)
    return {
        "max_logit_difference": differences[worst],
        "worst_case": worst,
        "mean_kl": float(np.concatenate(divergences).mean()),
        "max_kl": float(np.concatenate(divergences).max()),
        "top1_agreement": float(np.concatenate(agreements).mean()),
        "greedy_tokens": len(same),
        "greedy_agreement": agreed,
        "margin_at_disagreement": expected.margins[agreed] if agreed < len(same) else None,
    }


def kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KL divergence, in nats, of each row's distribution: logits (N, V), (N, V) -> (N,).

    >>> kl(np.array([[0.0, 0.0]], np.float32), np.array([[0.0, np.log(3.0)]], np.float32)).round(4)
    array([0.1438])
    """
    log_p, log_q = _log_softmax(a), _log_softmax(b)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return np.asarray(np.maximum(divergence, 0.0))  # rounding alone takes it below


def beyond(figures: dict[str, Any], tolerance: float) -> list[str]:
    """What in the figures is not to be accepted.

    A tie that rounding may decide either way, a margin of less than twice the tolerance, is no disagreement.
    """
    failures = []
    if not figures["max_logit_difference"] <= tolerance:  # so that NaN fails too
        failures.append(
            f"logits differ by {figures['max_logit_difference']:.3g} ({figures['worst_case']}), limit {tolerance:.3g}"
        )
    margin = figures["margin_at_disagreement"]
    if margin is not None and not margin < 2 * tolerance:
        failures.append(
            f"greedy tokens agree for {figures['greedy_agreement']} of {figures['greedy_tokens']}, "
            f"then differ where the margin is {margin:.3g}"
        )
    return failures


def _second_call(step: backends.Step, case: Case) -> np.ndarray:
    ids, mask, positions, cache = case.input_ids, case.attention_mask, case.position_ids, None
    if case.past:
        _, cache = step(ids[:, : case.past], mask[:, : case.past], positions[:, : case.past], None)
    return step(ids[:, case.past :], mask, positions[:, case.past :], cache)[0]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


@dataclass(frozen=True)
class _Part:
    """One backend's share of the whole verification."""

    progress: Progress
    start: int
    total: int

    def __call__(self, done: int) -> None:
        self.progress("verify", self.start + done, self.total)
