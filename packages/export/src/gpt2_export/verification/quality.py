"""Measures a precision's loss before it is kept: each of its graphs against the float32 graph of its kind, on texts.

For every text: perplexity, the KL divergence from the float32 distribution, how often the likeliest token agrees, and
how long greedy text agrees. On the model's own text the perplexity increase is the expected one, exp(KL) - 1, not the
measured one: never negative, and free of sampling noise.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from gpt2_model import GPT2, GPT2Config
from gpt2_model.checkpoint import read_json

from gpt2_export.errors import PrecisionError, QualityError
from gpt2_export.folder.reports import LargestActivation, QualityReport, TextFigures
from gpt2_export.graphs import kinds
from gpt2_export.precision.fp16 import LARGEST
from gpt2_export.precision.nbits import is_matrix
from gpt2_export.precision.precision import FP16, Precision, means
from gpt2_export.progress import Progress, silent
from gpt2_export.verification import backends, eval_texts, fp16_range
from gpt2_export.verification.backends import Step
from gpt2_export.verification.eval_texts import Text
from gpt2_export.verification.metrics import greedy, kl

WINDOW = 512  # tokens read at once
ROWS = 64  # of logits whose divergence is computed at once
GREEDY_TOKENS = 32
PROMPT_TOKENS = 16
SENSITIVITY_TOKENS = 128


def judge(
    folder: Path,
    made: Path,
    precision: Precision,
    *,
    files: Sequence[Path] = (),
    max_ppl_increase: float | None = None,
    keep: Collection[str] = (),
    progress: Progress = silent,
) -> QualityReport:
    """Measures the graphs of a precision and enforces the limit.

    Args:
        folder: has the float32 graphs and weights, and the tokenizer.
        made: has the precision's graphs and weights.
        precision: the precision to measure.
        files: the user's texts.
        max_ppl_increase: in percent; the precision's own by default.
        keep: the matrices kept in float32, for the report.
        progress: called for each text.

    Returns:
        the report.

    Raises:
        PrecisionError: float16 cannot hold an activation; a text cannot be read.
        QualityError: perplexity rises by more than the limit. It has the report and the layers that lose most.
    """
    limit = precision.max_ppl_increase if max_ppl_increase is None else max_ppl_increase
    config = GPT2Config.from_hf(read_json(folder / "config.json"))
    graphs = kinds.graphs_in(made)[precision.name]
    stage, done = f"measure {precision.name}", 0
    report: QualityReport = {"max_ppl_increase": limit, "kept": sorted(keep), "graphs": {}}
    texts: list[Text] = []
    for kind in graphs:
        progress(stage, done, len(graphs) * max(1, len(texts)))
        reference = backends.graph(kind, folder)
        if not texts:
            texts = eval_texts.texts(
                folder, files, reference, vocab_size=config.vocab_size, n_positions=config.n_positions
            )
            if precision is FP16:
                report["largest_activation"] = check_fp16_range(folder, texts)
        candidate = backends.graph(kind, made, precision)
        figures: dict[str, TextFigures] = {}
        report["graphs"][kind] = figures
        for text in texts:
            figures[text.name] = measured(reference, candidate, text, config)
            done += 1
            progress(stage, done, len(graphs) * len(texts))
    kind, name, increase = worst(report)
    if not increase <= limit:  # NaN is refused too
        report["sensitivity"] = sensitivity(folder, precision, texts[-1].ids, keep)
        raise QualityError(
            f"{precision.name} raises perplexity by {increase:.3g} % on {name} ({kind} graph), limit {limit:g} %; "
            "name the layers that lose most in keep (--keep), use a more exact precision, or raise "
            "max_ppl_increase (--max-ppl-increase)",
            report,
        )
    return report


def measured(reference: Step, candidate: Step, text: Text, config: GPT2Config) -> TextFigures:
    """The figures of one text."""
    divergences, same, losses = [], [], []
    for ids in _windows(text.ids, min(WINDOW, config.n_positions)):
        a, b = (_logits(step, ids) for step in (reference, candidate))  # (T, V)
        for rows in (slice(start, start + ROWS) for start in range(0, len(ids), ROWS)):
            divergences.append(kl(a[rows], b[rows]))
            following = ids[rows.start + 1 : rows.stop + 1]
            losses.append([_losses(logits[rows][: len(following)], following) for logits in (a, b)])
        same.append(a.argmax(axis=-1) == b.argmax(axis=-1))
    kls = np.concatenate(divergences)
    before, after = (float(np.concatenate([pair[which] for pair in losses]).mean()) for which in (0, 1))
    increase = float(kls.mean()) if text.own else after - before
    agreed, total = _greedy_agreement(reference, candidate, text.ids, config)
    return {
        "tokens": len(text.ids),
        "perplexity_fp32": float(np.exp(before)),
        "perplexity": float(np.exp(after)),
        "ppl_increase": float(np.expm1(increase) * 100),
        "mean_kl": float(kls.mean()),
        "max_kl": float(kls.max()),
        "top1_agreement": float(np.concatenate(same).mean()),
        "greedy_tokens": total,
        "greedy_agreement": agreed,
    }


def worst(report: QualityReport) -> tuple[str, str, float]:
    """The graph and the text with the largest perplexity increase, and that increase in percent."""
    results = [
        (figures["ppl_increase"], kind, text)
        for kind, texts in report["graphs"].items()
        for text, figures in texts.items()
    ]
    increase, kind, text = max(results, key=lambda entry: np.nan_to_num(entry[0], nan=np.inf))
    return kind, text, increase


def sensitivity(folder: Path, precision: Precision, ids: np.ndarray, keep: Collection[str] = ()) -> dict[str, float]:
    """For each matrix, the mean KL divergence if it alone is stored in the precision; largest first.

    Matrices in `keep` are left out: the precision may not be able to store them at all.
    """
    model = GPT2.from_pretrained(folder)
    read = torch.from_numpy(ids[None, : min(SENSITIVITY_TOKENS, model.config.n_positions)])
    results = {}
    with torch.no_grad():
        before = model(read)[0][0].numpy()
        for name, parameter in model.named_parameters():
            if not is_matrix(name) or any(means(each, name) for each in keep):
                continue
            original = parameter.clone()
            parameter.copy_(torch.from_numpy(precision.dequantized(name, original.numpy())))
            results[name.removesuffix(".weight")] = float(kl(before, model(read)[0][0].numpy()).mean())
            parameter.copy_(original)
    return dict(sorted(results.items(), key=lambda entry: -entry[1]))


def check_fp16_range(folder: Path, texts: Sequence[Text]) -> LargestActivation:
    layer, size = fp16_range.largest(folder, [text.ids for text in texts])
    if not size <= LARGEST:
        raise PrecisionError(
            f"{FP16.name}: {layer} reads or makes {size:.4g}, float16 ends at {LARGEST:.0f}; leave out {FP16.name}"
        )
    return {"layer": layer, "size": size, "limit": LARGEST}


def _windows(ids: np.ndarray, width: int) -> Iterator[np.ndarray]:
    for start in range(0, len(ids), width):
        if len(ids) - start > 1:  # a single last token has no successor
            yield ids[start : start + width]


def _logits(step: Step, ids: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        logits, _ = step(ids[None], np.ones((1, len(ids)), np.int64), np.arange(len(ids))[None], None)
    return np.asarray(logits[0])


def _losses(logits: np.ndarray, following: np.ndarray) -> np.ndarray:
    """The loss of each following token, in nats: (T, V), (T,) -> (T,)."""
    wide = logits.astype(np.float64)
    largest = wide.max(axis=-1, keepdims=True)
    total = np.log(np.exp(wide - largest).sum(axis=-1)) + largest[:, 0]
    return np.asarray(total - wide[np.arange(len(following)), following])


def _greedy_agreement(reference: Step, candidate: Step, ids: np.ndarray, config: GPT2Config) -> tuple[int, int]:
    prompt = ids[None, : max(1, min(PROMPT_TOKENS, config.n_positions // 2))]
    count = min(GREEDY_TOKENS, config.n_positions - prompt.shape[1] + 1)
    ours, theirs = (greedy(step, prompt, count)[0] for step in (reference, candidate))
    same = [a == b for a, b in zip(ours, theirs, strict=True)]
    return same.index(False) if False in same else count, count
