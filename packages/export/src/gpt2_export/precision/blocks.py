"""Quantizes a matrix in blocks of 8 or 4 bits, the format of onnxruntime's MatMulNBits.

A row [K] of a matrix [N, K] (outputs, inputs) is cut into blocks of `block` numbers with one scale each. A number is
stored as its quotient by the scale, plus half the range because it is unsigned. Two of 4 bits share a byte, the first
in the lower half.

    blocks [N, K / block, block * bits / 8] uint8, scales [N, K / block] float32

Eight bits use plain rounding: the scale maps the largest number of a block to 127. In four bits that wastes much of the
range on one number, so several scales are tried, each refitted to its rounding by least squares, and the one with the
smallest error is used. No calibration data is needed.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

FACTORS = np.linspace(0.7, 1.1, 17, dtype=np.float32)  # of the plain scale, tried in four bits
ROWS = 256  # at a time, so that the work stays in the processor's caches
SMALLEST, LARGEST = 16, 256  # block sizes of MatMulNBits, powers of two


def quantize(weight: np.ndarray, *, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks and the scales of a matrix.

    Args:
        weight: [N, K] float32, finite; K is a multiple of `block`.
        bits: 8 or 4.
        block: numbers per scale.

    >>> blocks, scales = quantize(np.linspace(-1, 1, 32, dtype=np.float32)[None], bits=4, block=16)
    >>> blocks.shape, scales.shape
    ((1, 2, 8), (1, 2))
    >>> float(abs(dequantize(blocks, scales, bits=4) - np.linspace(-1, 1, 32)).max()) < 0.08
    True
    """

    def rounded(start: int) -> tuple[np.ndarray, np.ndarray]:
        part = weight[start : start + ROWS].astype(np.float32)
        part = part.reshape(len(part), -1, block)  # [n, K] -> [n, K / block, block]
        levels, scale = _eight_bits(part) if bits == 8 else _four_bits(part)
        return _packed((levels + (1 << (bits - 1))).astype(np.uint8), bits), scale[..., 0]

    with ThreadPoolExecutor() as pool:  # numpy releases the GIL while it computes
        parts = list(pool.map(rounded, range(0, len(weight), ROWS)))
    blocks, scales = zip(*parts, strict=True)
    return np.concatenate(blocks), np.concatenate(scales)


def dequantize(blocks: np.ndarray, scales: np.ndarray, *, bits: int) -> np.ndarray:
    """The matrix [N, K] that blocks and scales represent."""
    if bits == 4:
        blocks = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:2], -1)
    values = (blocks.astype(np.float32) - (1 << (bits - 1))) * scales[..., None]
    return np.asarray(values.reshape(len(blocks), -1))


def fitting(width: int, largest: int) -> int | None:
    """The largest block size up to `largest` that divides rows of `width` numbers, or None.

    >>> fitting(768, 128), fitting(192, 128), fitting(40, 128)
    (128, 64, None)
    """
    block = min(largest, LARGEST)
    while block >= SMALLEST and width % block:
        block //= 2
    return block if block >= SMALLEST else None


def _eight_bits(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = _nonzero(np.abs(part).max(axis=-1, keepdims=True) / np.float32(127))
    return np.rint(part / scale), scale


def _four_bits(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    largest = np.abs(part).argmax(axis=-1)[..., None]
    plain = _nonzero(np.take_along_axis(part, largest, axis=-1) / np.float32(-8))  # 8 levels below 0, 7 above
    levels, scale = _levels(part, plain), plain
    error = _error(part, levels, scale)
    for factor in FACTORS:
        tried = _levels(part, plain * factor)
        fitted = (tried * part).sum(axis=-1, keepdims=True) / np.maximum((tried * tried).sum(-1, keepdims=True), 1)
        fitted = _nonzero(fitted.astype(np.float32))
        tried = _levels(part, fitted)
        loss = _error(part, tried, fitted)
        better = loss < error
        levels, scale, error = (np.where(better, a, b) for a, b in ((tried, levels), (fitted, scale), (loss, error)))
    return levels, scale


def _levels(part: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(part / scale), -8, 7))


def _error(part: np.ndarray, levels: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray(((levels * scale - part) ** 2).sum(axis=-1, keepdims=True))


def _nonzero(scale: np.ndarray) -> np.ndarray:
    return np.where(scale == 0, np.float32(1), scale)  # a block of zeros


def _packed(levels: np.ndarray, bits: int) -> np.ndarray:
    return levels if bits == 8 else levels[..., 0::2] | (levels[..., 1::2] << 4)
