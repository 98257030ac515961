"""Moves large channels of a LayerNorm's output into the matrix that reads it, without changing what is computed.

A LayerNorm with some channels many times the others makes the activations of a block share the scale of the largest,
and the others round to nothing. Half of the excess, in the geometric sense, is taken from the norm and given to the
matrix (SmoothQuant, arXiv 2211.10438, whose statistics come from data; a LayerNorm's own weight and bias tell as much).
The factors are powers of two: norm and matrix change their exponents alone, so that no product is rounded otherwise.
"""

import numpy as np


def factors(weight: np.ndarray, bias: np.ndarray, reader: np.ndarray) -> np.ndarray:
    """What each channel is divided by in the norm and multiplied by in the matrix, [C]; all 1 where nothing stands out.

    Args:
        weight, bias: of the norm, [C].
        reader: the matrix that reads it, [C, N] (inputs, outputs).

    >>> wide = factors(np.array([1, 1, 30, 1.1]), np.zeros(4), np.full((4, 2), 0.02))
    >>> wide.tolist()
    [1.0, 1.0, 4.0, 1.0]
    """
    size = np.hypot(weight.astype(np.float64), bias)  # of a channel, for what is normalised has variance 1
    reading = np.sqrt((reader.astype(np.float64) ** 2).mean(axis=1))
    known = (size > 0) & (reading > 0)
    if not known.any():
        return np.ones(len(weight), np.float32)
    balance = np.sqrt(size[known] / reading[known])
    found = np.ones(len(weight))
    found[known] = np.exp2(np.rint(np.log2(balance / np.median(balance))))
    return found.astype(np.float32)
