"""What equals what, in each precision: the one place where it is written. `inspect` shows it, and so does the README.

Each cell is a test in `tests/test_promise.py`, at GPT-2's width. The kernels that decide are onnxruntime's:

- A product of blocks of 8 or 4 bits takes rows two by two, and a last one without a partner in another order of sums.
  So int8 and int4 compute an even number of rows, unless the session is `fast_single`.
- Attention takes a token that is read by itself in another order of sums than one among several. In int8 and int4 that
  difference is rounded to another step here and there, and grows: so lookup, which reads several tokens at once where
  plain decoding reads one, drafts nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

BITS = "bits"
TEXT = "text"
CLOSE = "close"
NONE = "-"

LEVELS = MappingProxyType(
    {
        BITS: "the same bits, so the same text",
        TEXT: "the same text; logits differ by rounding alone, so that two tokens that all but tie may change places",
        CLOSE: "logits differ by less than the precision itself loses, so the text may be another",
        NONE: "there is no such choice",
    }
)

PRECISIONS = ("fp32", "fp16", "int8", "int4")


@dataclass(frozen=True, kw_only=True)
class Equality:
    """Two ways to the same text, and how far they agree in each precision.

    Attributes:
        name: of its test.
        ways: what is compared.
        levels: precision -> one of LEVELS.
    """

    name: str
    ways: str
    levels: Mapping[str, str]


def _row(name: str, ways: str, *levels: str) -> Equality:
    return Equality(name=name, ways=ways, levels=MappingProxyType(dict(zip(PRECISIONS, levels, strict=True))))


EQUALITIES = (
    _row("batch", "a row alone, in a batch of 2 to 16", BITS, BITS, BITS, BITS),
    _row("neighbours", "rows that others join and leave", BITS, BITS, BITS, BITS),
    _row("pieces", "a prompt at once, in pieces of 2 tokens and more", BITS, BITS, BITS, BITS),
    _row("prefixes", "with prefix reuse, without", BITS, BITS, BITS, BITS),
    _row("lookup", "with lookup, without", TEXT, TEXT, BITS, BITS),
    _row("threads", "1 thread, 2 threads", BITS, BITS, BITS, BITS),
    _row("packed", "weights packed, not yet packed (prepack=False)", TEXT, BITS, BITS, BITS),
    _row("alone", "a token by itself, among others: a text that is written, and read again", TEXT, CLOSE, CLOSE, CLOSE),
    _row("graphs", "the serving graph, the portable one", TEXT, CLOSE, CLOSE, CLOSE),
    _row("fast_single", "with fast_single, without", NONE, NONE, CLOSE, CLOSE),
)

NOTES = (
    "On the CPU, with attention heads of 32 or more numbers, as all published GPT-2 have; on x86-64 with AVX-512.",
    "On a GPU none of this has been measured.",
    "With fast_single the first five rows are close in int8 and int4.",
)


def table() -> Iterator[str]:
    """The table in Markdown, a line at a time.

    >>> next(table())
    '| what equals what | fp32 | fp16 | int8 | int4 |'
    """
    yield f"| what equals what | {' | '.join(PRECISIONS)} |"
    yield "|---|" + "---|" * len(PRECISIONS)
    for equality in EQUALITIES:
        yield f"| {equality.ways} | {' | '.join(equality.levels[name] for name in PRECISIONS)} |"


def lines() -> Iterator[str]:
    """The same for a terminal.

    >>> list(lines())[1].split()[-4:]
    ['bits', 'bits', 'bits', 'bits']
    """
    width = max(len(equality.ways) for equality in EQUALITIES)
    yield f"{'':<{width}}  {''.join(f'{name:<7}' for name in PRECISIONS)}".rstrip()
    for equality in EQUALITIES:
        yield f"{equality.ways:<{width}}  {''.join(f'{equality.levels[name]:<7}' for name in PRECISIONS)}".rstrip()
    yield from (f"{level}: {problem}" for level, problem in LEVELS.items())
    yield from NOTES
