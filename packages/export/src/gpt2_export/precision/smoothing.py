"""Moves large channels of a LayerNorm's output into the matrix that reads it, leaving the results unchanged.

If some channels of a LayerNorm are many times larger than the rest, all activations of a block share the largest one's
scale and the small ones round to zero. Half of the excess (geometrically) moves from the norm to the matrix, as in
SmoothQuant (arXiv 2211.10438), which takes its statistics from data; here the LayerNorm's weight and bias suffice. The
factors are powers of two: only exponents change, so no product is rounded differently.
"""

import numpy as np


def factors(weight: np.ndarray, bias: np.ndarray, reader: np.ndarray) -> np.ndarray:
    """The factors [C] that divide the norm's channels and multiply the matrix; all 1 if no channel stands out.

    Args:
        weight, bias: of the norm, [C].
        reader: the matrix that reads it, [C, N] (inputs, outputs).

    >>> wide = factors(np.array([1, 1, 30, 1.1]), np.zeros(4), np.full((4, 2), 0.02))
    >>> wide.tolist()
    [1.0, 1.0, 4.0, 1.0]
    """
    size = np.hypot(weight.astype(np.float64), bias)  # of a channel, since the normalised input has variance 1
    reading = np.sqrt((reader.astype(np.float64) ** 2).mean(axis=1))
    known = (size > 0) & (reading > 0)
    if not known.any():
        return np.ones(len(weight), np.float32)
    balance = np.sqrt(size[known] / reading[known])
    result = np.ones(len(weight))
    result[known] = np.exp2(np.rint(np.log2(balance / np.median(balance))))
    return result.astype(np.float32)
