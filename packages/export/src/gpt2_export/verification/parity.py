"""Runs a frozen folder in PyTorch, onnxruntime and transformers, and compares each with the scratch network in float64.

The sweep compares logits over shapes (see `sweep.py`); greedy decoding compares the text a user would see. One backend
holds the weights at a time, and only the sweep's logits are kept, so the largest models fit. `tolerance.py` sets the
limits; mistakes that a checkpoint's own weights would hide show on those of `stress.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gpt2_model import GPT2Config
from gpt2_model.checkpoint import read_json

from gpt2_export.errors import VerificationError
from gpt2_export.folder.reports import BackendFigures, GreedyFigures, ParityReport
from gpt2_export.graphs import kinds
from gpt2_export.graphs.explain import EXPLAIN
from gpt2_export.precision.precision import FP32
from gpt2_export.progress import Progress, silent
from gpt2_export.verification import backends, explain_parity, stress, truth
from gpt2_export.verification.metrics import greedy, kl
from gpt2_export.verification.sweep import Case, Ids, cases
from gpt2_export.verification.tolerance import limit

GREEDY_TOKENS = 64
PROMPT_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Run:
    """One backend's results on the folder.

    Attributes:
        logits: (B, T, V) per case.
        greedy_ids: the tokens after the prompt.
    """

    logits: tuple[np.ndarray, ...]
    greedy_ids: tuple[int, ...]


def verify(folder: Path, *, progress: Progress = silent) -> ParityReport:
    """The parity report of a frozen folder with its graphs.

    Raises:
        VerificationError: a backend is beyond tolerance; the error carries the report.
    """
    config = GPT2Config.from_hf(read_json(folder / "config.json"))
    sweep = cases(vocab_size=config.vocab_size, n_positions=config.n_positions)
    own, *others = backends.available(folder)
    total = (len(sweep) + 1) * (2 + len(others))
    progress("verify", 0, total)
    exact = truth.load(folder)
    with np.errstate(all="ignore"):  # overflow shows in the figures
        expected = exact(sweep)
    largest = float(np.max([np.abs(logits).max() for logits in expected]))
    figures: dict[str, BackendFigures] = {}
    report: ParityReport = {
        "reference": f"{own.name} in float64",
        "largest_logit": largest,
        "sweep": [case.name for case in sweep],
        "backends": figures,
    }
    texts: dict[str, tuple[int, ...]] = {}
    for number, backend in enumerate((own, *others), start=1):
        with np.errstate(all="ignore"):
            ran = run(backend.open(folder), config, sweep, _Part(progress, number * (len(sweep) + 1), total))
            figures[backend.name] = compare(expected, ran.logits, sweep)
        texts[backend.name] = ran.greedy_ids
        del ran
    float32_error = figures[own.name]["max_logit_difference"]
    if not np.isfinite(largest + float32_error):  # such a logit has no meaningful difference or limit
        raise VerificationError(f"{own.name}: a logit overflows float32; the weights are too large", report)
    report |= {"float32_error": float32_error, "tolerance": limit(largest, float32_error)}
    for name, agreement in greedy_figures(exact, prompt(config), texts).items():
        figures[name] = {**figures[name], **agreement}
    failures = [
        f"{name}: {failure}" for name, entry in figures.items() for failure in beyond(entry, report["tolerance"])
    ]
    if EXPLAIN.name in kinds.graphs_in(folder).get(FP32, {}):
        report["explaining"] = explain_parity.compare(folder)
        failures += [f"the explain graph: {failure}" for failure in explain_parity.beyond(report["explaining"])]
    with np.errstate(all="ignore"):
        report["stress"] = stress.compare(folder, (own, *others), sweep)
    failures += stress.beyond(report["stress"])
    progress("verify", total, total)
    if failures:
        raise VerificationError(
            f"the folder does not compute the same as its checkpoint: {'; '.join(failures)}", report
        )
    return report


def run(step: backends.Step, config: GPT2Config, sweep: tuple[Case, ...], progress: "_Part") -> Run:
    """The whole sweep and the greedy text on one backend."""
    logits = []
    for number, case in enumerate(sweep):
        progress(number)
        logits.append(backends.read(step, case))
    progress(len(sweep))
    start = prompt(config)
    ids, _ = greedy(step, start, min(GREEDY_TOKENS, config.n_positions - start.shape[1] + 1))
    return Run(logits=tuple(logits), greedy_ids=ids)


def prompt(config: GPT2Config) -> Ids:
    """The prompt of the greedy text: (1, T)."""
    rng = np.random.default_rng(1)
    return rng.integers(config.vocab_size, size=(1, max(1, min(PROMPT_TOKENS, config.n_positions // 2))))


def compare(expected: Sequence[np.ndarray], result: Sequence[np.ndarray], sweep: tuple[Case, ...]) -> BackendFigures:
    """The figures of one backend's logits against the exact ones, over every position with text."""
    differences = {}
    divergences, agreements = [], []
    for case, exact, logits in zip(sweep, expected, result, strict=True):
        text = case.attention_mask[:, case.past :] == 1
        a, b = exact[text], logits[text]  # (B, T, V) -> (positions with text, V)
        differences[case.name] = float(np.abs(a - b).max())
        divergences.append(kl(a, b))
        agreements.append(a.argmax(axis=-1) == b.argmax(axis=-1))
    worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    return {
        "max_logit_difference": differences[worst],
        "worst_case": worst,
        "mean_kl": float(np.concatenate(divergences).mean()),
        "max_kl": float(np.concatenate(divergences).max()),
        "top1_agreement": float(np.concatenate(agreements).mean()),
    }


def greedy_figures(exact: truth.Truth, start: Ids, texts: dict[str, tuple[int, ...]]) -> dict[str, GreedyFigures]:
    """For each backend, how long its greedy text agrees with the exact one, and how far a token is behind at most.

    Each token is compared with the exact choice after the same text, so tokens after a tie count too. The texts have
    the same length and are read in one batch.
    """
    chosen = np.array(list(texts.values()))  # (backends, N)
    ids = np.concatenate([start.repeat(len(chosen), axis=0), chosen[:, :-1]], axis=1)
    batch = Case(name="greedy", input_ids=ids, attention_mask=np.ones_like(ids), past=start.shape[1] - 1)
    (logits,) = exact([batch])  # (backends, N, V)
    behind = logits.max(axis=-1) - np.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0]
    return {
        name: {
            "greedy_tokens": len(row),
            "greedy_agreement": int(np.flatnonzero(row)[0]) if row.any() else len(row),
            "greedy_behind": float(row.max()),
        }
        for name, row in zip(texts, behind, strict=True)
    }


def beyond(figures: BackendFigures, tolerance: float) -> list[str]:
    """The figures beyond their limits.

    A token behind by at most twice the tolerance is a tie that rounding may decide either way, not a disagreement.
    """
    failures = []
    if not figures["max_logit_difference"] <= tolerance:  # NaN fails too
        failures.append(
            f"logits differ by {figures['max_logit_difference']:.3g} ({figures['worst_case']}), limit {tolerance:.3g}"
        )
    if not figures["greedy_behind"] <= 2 * tolerance:
        failures.append(
            f"greedy tokens agree for {figures['greedy_agreement']} of {figures['greedy_tokens']}, "
            f"one is {figures['greedy_behind']:.3g} behind the likeliest, limit {2 * tolerance:.3g}"
        )
    return failures


@dataclass(frozen=True)
class _Part:
    """One backend's share of the whole verification."""

    progress: Progress
    start: int
    total: int

    def __call__(self, done: int) -> None:
        self.progress("verify", self.start + done, self.total)
