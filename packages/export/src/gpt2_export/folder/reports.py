"""The manifest's reports of how a folder was verified, as verification makes them.

Reading a manifest checks only Required fields: reports of other versions have other figures, which code that shows a
report must handle.
"""

from collections.abc import Mapping
from typing import Required, TypedDict


class Deviation(TypedDict, total=False):
    """The distance from the network in float64: of a result, of torch's own float32, and the limit."""

    max_difference: float
    float32_error: float
    tolerance: float


class GreedyFigures(TypedDict, total=False):
    """How many tokens of a greedy text agree with the exact one, and how far one is behind the likeliest at most."""

    greedy_tokens: int
    greedy_agreement: int
    greedy_behind: float


class BackendFigures(GreedyFigures, total=False):
    """One backend against the network in float64."""

    max_logit_difference: float
    worst_case: str
    mean_kl: float
    max_kl: float
    top1_agreement: float


class ParityReport(TypedDict, total=False):
    """The float32 graphs, PyTorch and transformers against the network in float64.

    `explaining` is for the explain graph's outputs, `stress` for each backend on the weights of `stress.py`.
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
    """The loss of one graph of a precision on one text."""

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
    """A network's largest activation: its layer and size, and float16's limit."""

    layer: str
    size: float
    limit: float


class QualityReport(TypedDict, total=False):
    """A precision's loss: kind of graph -> text -> figures.

    `sensitivity`, matrix -> KL divergence, exists only for a refused precision.
    """

    max_ppl_increase: float
    kept: list[str]
    graphs: dict[str, dict[str, TextFigures]]
    largest_activation: LargestActivation
    sensitivity: dict[str, float]


class TokenizerReport(TypedDict, total=False):
    """The comparison of the tokenizer with its source, and whether its merges are as trained (`freeze/merges.py`)."""

    references: list[str]
    texts: int
    outcome: str
    merges_as_trained: bool
