"""The promise at the published model's size, in every precision, and on the demo: texts and bits, at length."""

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
    complete_batch,
)
from gpt2_runtime.precisions import PRECISIONS

pytestmark = pytest.mark.nightly

VOCABULARY = {"full size": 50257, "demo": 1535}
TOKENS = {"full size": 40, "demo": 120}


@pytest.fixture(scope="module")
def folders(shared: Any, demo_folder: Path) -> dict[str, Path]:
    """Random weights of 124M parameters, and the demo, each with every precision."""

    def write_full(place: Path) -> None:
        widths.write(place, n_layer=12, n_positions=1024, vocab_size=50257)

    def write_demo(place: Path) -> None:
        widths.copy(demo_folder, place / "folder")

    written = {"full size": shared("promise", write_full), "demo": shared("promise of the demo", write_demo)}
    return {name: place / "folder" for name, place in written.items()}


@pytest.fixture(params=[(name, precision) for name in VOCABULARY for precision in PRECISIONS], ids="-".join)
def generator(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[str, TextGenerator]:
    name, precision = request.param
    session = Session.open(folders[name], precision=precision, graph="serving", threads=2)
    return name, TextGenerator(session=session, tokenizer=None)


def test_ten_texts_are_the_same_alone_in_batches_with_lookup_and_with_reuse(
    generator: tuple[str, TextGenerator],
) -> None:
    name, alone = generator
    rng = np.random.default_rng(5)
    prompts = []
    for number in range(10):
        sampling = GREEDY if number < 7 else SamplingConfig(temperature=0.8, top_k=50)
        settings = {"max_new_tokens": TOKENS[name], "seed": number, "sampling": sampling}
        ids = rng.integers(VOCABULARY[name], size=1 + 4 * number).tolist()
        prompts.append(Prompt(prompt=ids, settings=settings))
    expected = [alone.complete(each.prompt, **each.settings).token_ids for each in prompts]
    for rows in (2, 8, 16):
        completions = {result.index: result.completions[0] for result in complete_batch(alone, prompts, rows=rows)}
        assert [completions[place].token_ids for place in range(10)] == expected
    prefixes = PrefixCache(alone.session, max_bytes=2**28)
    keeping = TextGenerator(session=alone.session, tokenizer=None, prefixes=prefixes)
    for _ in range(2):
        assert [keeping.complete(each.prompt, **each.settings).token_ids for each in prompts] == expected
    drafting = [alone.complete(each.prompt, lookup=LookupConfig(), **each.settings) for each in prompts]
    assert [each.token_ids for each in drafting] == expected


def test_bits_are_those_of_a_row_alone_beside_any_others(generator: tuple[str, TextGenerator]) -> None:
    """1 to 16 rows, at contexts up to the model's."""
    name, alone = generator
    session = alone.session
    limit = session.bundle.architecture.n_positions
    texts = np.random.default_rng(6).integers(VOCABULARY[name], size=(16, limit))
    _, filled = session.step(texts[:, : limit - 4], session.empty_cache(16))
    for length in (1, 17, limit // 2, limit - 4):
        cache = session.empty_cache().restore(0, filled.snapshot(0, length))
        expected, _ = session.step([texts[0, length : length + 1]], cache)
        for rows in range(2, 17):
            lengths = [length, *(1 + (37 * row + length) % (limit - 5) for row in range(1, rows))]
            cache = session.empty_cache(rows)
            for row, count in enumerate(lengths):
                cache = cache.restore(row, filled.snapshot(row, count))
            new = [text[count : count + 1] for text, count in zip(texts, lengths, strict=False)]
            actual, _ = session.step(new, cache)
            np.testing.assert_array_equal(actual[0], expected[0])


def test_bits_are_the_same_in_any_pieces(generator: tuple[str, TextGenerator]) -> None:
    name, alone = generator
    session = alone.session
    limit = session.bundle.architecture.n_positions
    ids = np.random.default_rng(7).integers(VOCABULARY[name], size=limit)
    whole, expected = session.step([ids], session.empty_cache())
    for size in (2, 3, 16, 17, 63, 100, 255, 257):
        cache, start = session.empty_cache(), 0
        while start < limit:
            stop = limit if limit - start - size < 2 else start + size
            found, cache = session.step([ids[start:stop]], cache)
            start = stop
        np.testing.assert_array_equal(found, whole)
        np.testing.assert_array_equal(cache.snapshot(0, limit).array, expected.snapshot(0, limit).array)
