"""Equal results at GPT-2's width: each cell of the table in `promise.py` is a test. Bits have no tolerance."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import widths
from gpt2_runtime import (
    GREEDY,
    LookupConfig,
    PrefixCache,
    Prompt,
    SamplingConfig,
    Session,
    TextGenerator,
    Token,
    complete_batch,
)
from gpt2_runtime.diagnostics.promise import BITS, CLOSE, EQUALITIES, NONE, TEXT, Equality
from gpt2_runtime.engine import packed_session
from gpt2_runtime.generation.generate import stream_events
from gpt2_runtime.generation.request import Request
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.generation.scheduler import Scheduler
from gpt2_runtime.precisions import PRECISIONS

Floats = np.ndarray
Outcome = tuple[Floats, Floats]
"""The logits computed in two ways, [any, V]."""

LENGTH = 300  # more than a chunk of 256
TEXTS = np.random.default_rng(0).integers(widths.SIZES["vocab_size"], size=(16, LENGTH))
OURS = TEXTS[0]
ROWS = (2, 3, 8, 16)
READ, STEPS = 19, 3
SHORT = 40
PIECES = {(2,): SHORT, (7, 2, 11): SHORT, (16,): SHORT, (255, 2): LENGTH, (100, 199): LENGTH, (257, 43): LENGTH}


@pytest.fixture(scope="session")
def wide(shared: Any) -> Path:
    return shared("wide", widths.write) / "folder"


@pytest.fixture(scope="session")
def opened(wide: Path) -> Callable[..., Session]:
    @cache
    def open_(precision: str, **settings: Any) -> Session:
        return Session.open(wide, precision=precision, **({"threads": 2, "graph": "serving"} | settings))

    return open_


def stepped(session: Session, rows: int = 1, ours: int = 0) -> Floats:
    """Our logits after a prompt and after each of some tokens, in a row beside rows of other lengths."""
    lengths = [1 + 11 * row % 40 for row in range(rows)]
    texts = [TEXTS[1 + row % 15] for row in range(rows)]
    lengths[ours], texts[ours] = READ, OURS
    if session.graph == "portable":
        lengths = [READ] * rows
    prompts = [text[:length] for text, length in zip(texts, lengths, strict=True)]
    logits, cache = session.step(prompts, session.empty_cache(rows))
    steps = [logits[ours, -1]]
    for step in range(STEPS):
        new = [text[length + step :][:1] for text, length in zip(texts, lengths, strict=True)]
        logits, cache = session.step(new, cache)
        steps.append(logits[ours, -1])
    return np.array(steps)


def read(session: Session, *sizes: int, length: int = SHORT) -> Floats:
    """Our logits after each token, read in pieces of these repeating sizes, or at once without any."""
    logits, cache, start = [], session.empty_cache(), 0
    while start < length:
        size = min(sizes[len(logits) % len(sizes)] if sizes else length, length - start)
        size += 1 if length - start - size == 1 and size > 1 else 0  # a single token is another row of the table
        chunk, cache = session.step([OURS[start : start + size]], cache, size)
        logits.append(chunk[0])
        start += size
    return np.concatenate(logits)


def batch(session: Session) -> Iterator[Outcome]:
    alone = stepped(session)
    for rows in ROWS:
        yield stepped(session, rows, rows - 1), alone


def pieces(session: Session) -> Iterator[Outcome]:
    whole = read(session, length=LENGTH)
    for sizes, length in PIECES.items():
        yield read(session, *sizes, length=length), whole[:length]


def prefixes(session: Session) -> Iterator[Outcome]:
    prefixes = PrefixCache(session, max_bytes=2**28)
    reused = 0
    for shared, length in ((40, 40), (40, 41), (17, 49), (33, 257), (257, 258), (200, 289)):
        ids = np.concatenate([OURS[:shared], TEXTS[1, shared:length]]).tolist()
        expected, whole = session.step([ids], session.empty_cache())
        restored, count = prefixes.restore(session.empty_cache(), ids, length)
        actual, after = session.step([ids[count:]], restored)
        prefixes.keep(ids, after)
        reused += count
        yield actual[0], expected[0]
        yield after.snapshot(0, length).array, whole.snapshot(0, length).array
    assert reused > 50


def threads(one: Session, two: Session) -> Iterator[Outcome]:
    yield read(one), read(two)
    yield stepped(one), stepped(two)


def completions_of(generator: TextGenerator, prompts: list[Prompt], rows: int | None = None) -> list[tuple[Any, ...]]:
    """The ids of texts and their exact log-probabilities: one by one, or `rows` at once."""
    if rows is None:
        completions = [generator.complete(each.prompt, **each.settings) for each in prompts]
    else:
        results = sorted(complete_batch(generator, prompts, rows=rows), key=lambda result: result.index)
        completions = [completion for result in results for completion in result.completions]
    return [(each.token_ids, [token.logprob for token in each.logprobs or ()]) for each in completions]


def prompts(count: int, **settings: Any) -> list[Prompt]:
    """Prompts of all lengths, whose texts end at different times, so that rows leave and join."""
    made = []
    for number in range(count):
        sampling = GREEDY if number % 2 else SamplingConfig(temperature=0.8, top_k=50)
        defaults = {"max_new_tokens": 3 + 5 * number % 11, "seed": number, "sampling": sampling, "logprobs": 0}
        ids = TEXTS[number % 16, : 1 + 23 * number % 90].tolist()
        made.append(Prompt(prompt=ids, settings={**defaults, **settings}))
    return made


def repeating(count: int) -> list[Prompt]:
    """Repetitive prompts, so that lookup finds drafts."""
    made = prompts(count, max_new_tokens=12, logprobs=None)
    return [Prompt(prompt=list(each.prompt[:5]) * 6, settings=each.settings) for each in made]


def logits_of(equality: Equality, precision: str, opened: Callable[..., Session]) -> Iterator[Outcome]:
    """The logits compared in a row of the table, except the rows about texts."""
    session = opened(precision)
    if equality.name == "threads":
        return threads(opened(precision, threads=1), session)
    if equality.name == "packed":
        return iter([(read(opened(precision, prepack=False)), read(session))])
    if equality.name == "alone":
        return iter([(read(session, 1)[1:], read(session)[1:])])
    if equality.name == "graphs":
        return iter([(read(opened(precision, graph="portable")), read(session))])
    if equality.name == "fast_single":
        return iter([(stepped(opened(precision, fast_single=True)), stepped(session))])
    return {"batch": batch, "pieces": pieces, "prefixes": prefixes}[equality.name](session)


LOGITS = ("batch", "pieces", "prefixes", "threads", "packed", "alone", "graphs", "fast_single")
CELLS = [
    pytest.param(equality, precision, id=f"{equality.name}-{precision}")
    for equality in EQUALITIES
    for precision in PRECISIONS
    if equality.levels[precision] != NONE
]


@pytest.mark.parametrize(("equality", "precision"), [cell for cell in CELLS if cell.values[0].name in LOGITS])
def test_logits_are_as_equal_as_the_table_says(
    equality: Equality, precision: str, opened: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_session, "UNPACKED_TOKENS", 10**9)
    level = equality.levels[precision]
    lost = np.abs(read(opened(precision)) - read(opened("fp32"))).mean()
    for actual, expected in logits_of(equality, precision, opened):
        assert level in (BITS, TEXT, CLOSE)
        if level == BITS:
            np.testing.assert_array_equal(actual, expected)
        elif level == TEXT:
            np.testing.assert_array_equal(actual.argmax(-1), expected.argmax(-1))
            assert 0 < np.abs(actual - expected).max() < 1e-4
        else:
            assert 0 < np.abs(actual - expected).mean() < lost


@pytest.mark.parametrize("precision", PRECISIONS)
def test_texts_are_those_of_rows_alone_while_others_join_and_leave(
    precision: str, opened: Callable[..., Session]
) -> None:
    generator = TextGenerator(session=opened(precision), tokenizer=None)
    batch = prompts(8)
    alone = completions_of(generator, batch)
    assert completions_of(generator, batch, 3) == alone
    prefixes = PrefixCache(generator.session, max_bytes=2**26)
    keeping = TextGenerator(session=generator.session, tokenizer=None, prefixes=prefixes)
    assert completions_of(keeping, batch, 5) == alone
    assert completions_of(keeping, batch) == alone


@pytest.mark.parametrize("precision", PRECISIONS)
def test_prompts_read_in_pieces_beside_rows_that_decode_have_the_same_bits(
    precision: str, opened: Callable[..., Session]
) -> None:
    session = opened(precision)

    def state(length: int) -> RequestState:
        request = Request(prompt_ids=OURS[:length].tolist(), max_new_tokens=3, sampling=GREEDY, logprobs=0)
        return RequestState(session, request, np.random.default_rng())

    lengths, chunks = (300, 129), (48, 112)
    alone = [list(stream_events(session, state(length))) for length in lengths]
    for chunk in chunks:
        scheduler = Scheduler(session, rows=2, prefill_chunk=chunk)
        runner = RequestState(
            session, Request(prompt_ids=[5], max_new_tokens=200, sampling=GREEDY), np.random.default_rng()
        )
        scheduler.submit(runner)
        scheduler.step()
        for length, expected in zip(lengths, alone, strict=True):
            joining = state(length)
            scheduler.submit(joining)
            events = []
            while not joining.ended:
                events += [event for each, event in scheduler.step() if each is joining]
            found = [(token.id, token.logprob) for token in events if isinstance(token, Token)]
            assert found == [(token.id, token.logprob) for token in expected if isinstance(token, Token)], length
        assert not runner.ended


@pytest.mark.parametrize("precision", PRECISIONS)
def test_lookup_changes_no_token(precision: str, opened: Callable[..., Session]) -> None:
    generator = TextGenerator(session=opened(precision), tokenizer=None)
    drafted = 0
    for each in repeating(3):
        plain = generator.complete(each.prompt, **each.settings)
        completion = generator.complete(each.prompt, lookup=LookupConfig(), **each.settings)
        assert completion.token_ids == plain.token_ids
        drafted += completion.timings.draft_tokens
    assert bool(drafted) == (precision not in ("int8", "int4"))


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("graph", ["serving", "portable"])
def test_the_tests_detect_a_row_that_is_computed_differently_alone(
    precision: str, graph: str, opened: Callable[..., Session]
) -> None:
    """And the portable graph, which reads every position, differs too."""
    single, even = (opened(precision, graph=graph, fast_single=fast) for fast in (True, False))
    pairs = [(stepped(each, rows), stepped(each)) for each in (single, even) for rows in (2, 5)]
    pairs += [(read(each, 7, 2, 11), read(each)) for each in (single, even)]
    same = [bool((actual == expected).all()) for actual, expected in pairs]
    assert same[2:4] == [True, True]
    assert same[5]
    assert not all(same[:2])
    assert not same[4]


def test_every_row_of_the_table_is_tested() -> None:
    assert {equality.name for equality in EQUALITIES} == {*LOGITS, "neighbours", "lookup"}
    texts = {equality.name: equality.levels for equality in EQUALITIES if equality.name not in LOGITS}
    assert set(texts["neighbours"].values()) == {BITS}
    assert texts["lookup"] == {"fp32": TEXT, "fp16": TEXT, "int8": BITS, "int4": BITS}
