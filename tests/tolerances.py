"""How far a logit may be off, for each rung, backend and dtype, and the bug that each tolerance must catch.

The bug is a mutant of `mutants.py`; `test_mutants.py` shows that it is beyond the tolerance. Rounding alone moves these
checkpoints' logits by 1e-5 in float32, by 3.5e-5 in onnxruntime's graphs, and by 2e-14 in float64 (6e-12 with
gelu_fast, whose constant transformers rounds). For beams the tolerance is on a text's log-probability, which sums the
rounding of all its tokens and of transformers' float32 sum.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """`must_catch` is the smallest bug that must not pass."""

    atol: float
    must_catch: str


# (rung, backend, dtype)
TOLERANCES = {
    ("scratch", "torch cpu", "float32"): Tolerance(1e-4, "LayerNorm epsilon of 1e-6"),
    ("scratch", "torch cpu", "float64"): Tolerance(1e-9, "LayerNorm epsilon rounded to half precision"),
    ("graph", "onnxruntime cpu", "float32"): Tolerance(1e-4, "LayerNorm epsilon of 1e-6 in the graph"),
    ("serving graph", "onnxruntime cpu", "float32"): Tolerance(1e-4, "LayerNorm epsilon of 1e-6 in the serving graph"),
    ("explaining graph", "onnxruntime cpu", "float32"): Tolerance(1e-4, "LayerNorm epsilon of 1e-6 in the lens"),
    ("session", "onnxruntime cpu", "float32"): Tolerance(1e-4, "keys and values swapped in the session"),
    ("beams", "onnxruntime cpu", "float32"): Tolerance(1e-4, "log-probabilities rounded to half precision"),
    ("full size", "cpu", "float32"): Tolerance(1e-4, "erf GELU instead of tanh"),
}


def atol(rung: str, backend: str, dtype: str) -> float:
    """How far a logit may be off."""
    return TOLERANCES[rung, backend, dtype].atol
