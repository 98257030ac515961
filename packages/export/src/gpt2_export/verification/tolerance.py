"""How far a float32 result may be from float64, and why.

A correct backend differs from float64 only by rounding, and so does torch's own float32 on the same inputs and weights:
its error is the yardstick. ABSOLUTE and RELATIVE are the least that is allowed, because the yardstick may be short by
chance.

Over 166 random networks onnxruntime's largest error was below 1.5 times torch's in nine of ten, and 6.0 times in the
worst (width 768, std 0.5, unscaled attention): there a few near ties in the softmax decide both errors, and the ratio
of two such errors has a long tail. So FACTOR is well above that, and far below the smallest mistake that it must catch,
"weights rounded to bfloat16", which was never less than 336 times torch's error.

On the weights of `stress.py` float32 was off by at most 1.2e-6 of the largest number, from width 32 to 768. STRESS must
catch "erf GELU instead of tanh", the smallest mistake in the formula: 9.7 times the limit at width 64, 4.1 times at
768. A single wrong weight is below the limit from width 192 on, but the graphs read the file's own bytes.
"""

from collections.abc import Callable

Limit = Callable[[float, float], float]
"""(largest number, torch's own error) -> the largest accepted error."""

ABSOLUTE, RELATIVE = 1e-4, 1e-5
FACTOR = 16.0
STRESS = 1e-5


def limit(largest: float, float32_error: float) -> float:
    """The largest accepted error.

    Args:
        largest: the magnitude of the largest number compared.
        float32_error: torch's own.

    >>> limit(20.0, 1e-5), limit(20.0, 1e-3)
    (0.0002, 0.016)
    """
    return max(ABSOLUTE, RELATIVE * largest, FACTOR * float32_error)


def stress_limit(largest: float, float32_error: float = 0.0) -> float:
    """The same on the weights of `stress.py`; independent of torch's own error."""
    return STRESS * largest
