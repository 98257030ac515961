"""What the manifest says of how a folder was verified, as verification reports it.

Only what is Required is checked where a manifest is read: reports of other versions have other figures, and whoever
shows one finds out.
"""

from collections.abc import Mapping
from typing import Required, TypedDict


class Deviation(TypedDict, total=False):
    """How far something is from the network in float64, by torch's own float32, and may be."""

    max_difference: float
    float32_error: float
    tolerance: float


class GreedyFigures(TypedDict, total=False):
    """For how many tokens a greedy text is the exact one, and the most that a token of it is behind the likeliest."""

    greedy_tokens: int
    greedy_agreement: int
    greedy_behind: float


class BackendFigures(GreedyFigures, total=False):
    """One backend beside the network in float64."""

    max_logit_difference: float
    worst_case: str
    mean_kl: float
    max_kl: float
    top1_agreement: float


class ParityReport(TypedDict, total=False):
    """The float32 graphs, PyTorch and transformers beside the network in float64.

    `explaining` is of what the explaining graph shows, `stress` of each of them on the weights of `stress.py`.
    """

    reference: Required[str]
    largest_logit: float
    sweep: list[str]
    backends: Required[Mapping[str, BackendFigures]]
    float32_error: float
    tolerance: float
    explaining: dict[str, Deviation]
    stress: dict[str, Deviation]


class TextFigures(TypedDict, total=False):
    """What a graph of another precision loses on one text."""

    tokens: int
    perplexity_fp32: float
    perplexity: float
    ppl_increase: float
    mean_kl: float
    max_kl: float
    top1_agreement: float
    greedy_tokens: int
    greedy_agreement: int


class LargestActivation(TypedDict, total=False):
    """Of a network in float16: where it is, and what float16 can hold."""

    layer: str
    size: float
    limit: float


class QualityReport(TypedDict, total=False):
    """What a precision loses: kind of graph -> text -> figures.

    `sensitivity`, matrix -> KL divergence, is of a precision that was refused.
    """

    max_ppl_increase: float
    kept: list[str]
    graphs: dict[str, dict[str, TextFigures]]
    largest_activation: LargestActivation
    sensitivity: dict[str, float]


class TokenizerReport(TypedDict, total=False):
    """What the tokenizer was compared with, and whether its merges are as trained (`freeze/merges.py`)."""

    references: list[str]
    texts: int
    outcome: str
    merges_as_trained: bool
