"""Which ways to compute a text give equal results, in each precision. `inspect` and the README show this table.

Each cell is a test in `tests/test_promise.py`, at GPT-2's width. The differences come from onnxruntime's kernels:

- A product of 8-bit or 4-bit blocks takes rows in pairs, and sums a last row without a partner in another order. So
  int8 and int4 compute an even number of rows, unless the session is `fast_single`.
- Attention sums in another order for a token read alone than for one among several. In int8 and int4 that difference
  is sometimes rounded to another step, and grows. So prompt lookup, which reads several tokens at once where plain
  decoding reads one, drafts nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gpt2_runtime.precisions import PRECISIONS

BITS = "bits"
TEXT = "text"
CLOSE = "close"
NONE = "-"

LEVELS = MappingProxyType(
    {
        BITS: "bitwise equal logits, so the same text",
        TEXT: "the same text; logits differ only by rounding, so two tokens that almost tie may swap",
        CLOSE: "logits differ by less than the precision itself loses, so the text may differ",
        NONE: "does not apply",
    }
)


@dataclass(frozen=True, kw_only=True)
class Equality:
    """Two ways to compute a text, and how closely they agree in each precision.

    Attributes:
        name: the name of its test.
        ways: the ways compared.
        levels: precision -> one of LEVELS.
    """

    name: str
    ways: str
    levels: Mapping[str, str]


def _row(name: str, ways: str, *levels: str) -> Equality:
    return Equality(name=name, ways=ways, levels=MappingProxyType(dict(zip(PRECISIONS, levels, strict=True))))


EQUALITIES = (
    _row("batch", "a row alone; in a batch of 2 to 16", BITS, BITS, BITS, BITS),
    _row("neighbours", "rows while others join and leave the batch", BITS, BITS, BITS, BITS),
    _row("pieces", "a prompt at once; in chunks of 2 or more tokens", BITS, BITS, BITS, BITS),
    _row("prefixes", "with prefix reuse; without", BITS, BITS, BITS, BITS),
    _row("lookup", "with prompt lookup; without", TEXT, TEXT, BITS, BITS),
    _row("threads", "1 thread; 2 threads", BITS, BITS, BITS, BITS),
    _row("packed", "weights prepacked; not prepacked (prepack=False)", TEXT, BITS, BITS, BITS),
    _row("alone", "a text as it is generated; the same text read as a prompt", TEXT, CLOSE, CLOSE, CLOSE),
    _row("graphs", "the serving graph; the portable graph", TEXT, CLOSE, CLOSE, CLOSE),
    _row("fast_single", "with fast_single; without", NONE, NONE, CLOSE, CLOSE),
)

NOTES = (
    "Valid on x86-64 CPUs with AVX-512, for attention heads of 32 or more values, as in all published GPT-2 models.",
    "Not measured on a GPU.",
    "With fast_single, the first five rows are close in int8 and int4.",
)


def table() -> Iterator[str]:
    """The table in Markdown, line by line.

    >>> next(table())
    '| compared | fp32 | fp16 | int8 | int4 |'
    """
    yield f"| compared | {' | '.join(PRECISIONS)} |"
    yield "|---|" + "---|" * len(PRECISIONS)
    for equality in EQUALITIES:
        yield f"| {equality.ways} | {' | '.join(equality.levels[name] for name in PRECISIONS)} |"


def lines() -> Iterator[str]:
    """The same table for a terminal.

    >>> list(lines())[1].split()[-4:]
    ['bits', 'bits', 'bits', 'bits']
    """
    width = max(len(equality.ways) for equality in EQUALITIES)
    yield f"{'':<{width}}  {''.join(f'{name:<7}' for name in PRECISIONS)}".rstrip()
    for equality in EQUALITIES:
        yield f"{equality.ways:<{width}}  {''.join(f'{equality.levels[name]:<7}' for name in PRECISIONS)}".rstrip()
    yield from (f"{level}: {meaning}" for level, meaning in LEVELS.items())
    yield from NOTES
