"""Prompts that start like earlier ones: the same bits with it and without, and never more memory than is allowed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from gpt2_runtime import (
    GREEDY,
    Finished,
    LookupConfig,
    PrefixCache,
    SamplingConfig,
    Session,
    TextGenerator,
    Token,
    generate,
)
from gpt2_runtime.engine import portable_graph as portable
from gpt2_runtime.engine import serving_graph as serving
from gpt2_runtime.errors import SettingError
from gpt2_runtime.generation import prefix_cache
from hypothesis import given, settings
from hypothesis import strategies as st

GRAPHS = [(graph, precision) for graph in ("serving", "portable") for precision in ("fp32", "int8", "int4")]
ROOM = 2**20
TOKEN = 2 * 2 * 4 * 8 * 4  # bytes of the fixture's keys and values
TEXT = np.random.default_rng(0).integers(0, 299, size=64).tolist()
OTHER = np.random.default_rng(1).integers(0, 299, size=64).tolist()


@pytest.fixture(params=GRAPHS, ids="-".join, scope="module")
def opened(request, folder):
    graph, precision = request.param
    return Session.open(folder, threads=1, graph=graph, precision=precision)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 32 tokens, for the fixture's model reads 64."""
    for module, name in ((serving, "PREFILL_CHUNK"), (portable, "PREFILL_CHUNK"), (prefix_cache, "CHUNK")):
        monkeypatch.setattr(module, name, 32)


def read(session, ids, kept=None):
    """Logits after a prompt, its keys and values, and how many of its tokens were reused."""
    cache, reused = session.empty_cache(), 0
    if kept is not None:
        cache, reused = kept.restore(cache, ids, len(ids))
    logits, cache = session.step([ids[reused:]], cache)
    return logits, cache, reused


def assert_same_bits(session):
    """Of prompts that share any number of tokens with one of any length before them."""
    alone = cache(lambda *ids: read(session, list(ids))[:2])
    reused = set()
    for before in (15, 17, 32, 40, 49, 64):
        kept = PrefixCache(session, max_bytes=ROOM)
        _, first, _ = read(session, TEXT[:before])
        kept.keep(TEXT[:before], first)
        session.step([[1, 2, 3]], first.crop(0))  # what is kept is not what this writes over
        for length in (1, 2, 17, 18, 32, 33, 47, 49, 50, 64):
            for shared in sorted({0, 16, 31, 33, 48, length - 1, length}):
                if shared <= min(before, length):
                    ids = [*TEXT[:shared], *OTHER[shared:length]]
                    expected, whole = alone(*ids)
                    found, after, count = read(session, ids, kept)
                    np.testing.assert_array_equal(found, expected)
                    np.testing.assert_array_equal(after.snapshot(0, length).array, whole.snapshot(0, length).array)
                    reused.add(count)
    assert reused == {0, 16, 32, 48}


def test_what_is_reused_has_the_bits_that_are_computed(opened):
    assert_same_bits(opened)


@pytest.mark.usefixtures("short_chunks")
def test_so_it_has_where_a_prompt_is_read_in_chunks(opened):
    assert_same_bits(opened)


def complaint(session, prompt, kept=None, **wanted):
    """The ids, the log-probabilities to their last bit, and the end of a generation."""
    wanted = {"max_new_tokens": 12, "sampling": GREEDY, "stop_token_ids": (), "logprobs": 3} | wanted
    *tokens, finished = generate(session, prompt, rng=np.random.default_rng(7), prefixes=kept, **wanted)
    return [(token.id, token.logprob, token.top_logprobs) for token in tokens], finished


def assert_same_texts(session, prompts, **wanted):
    """Returns how many tokens of each prompt were reused."""
    kept, reused = PrefixCache(session, max_bytes=ROOM), []
    for prompt in prompts:
        expected, without = complaint(session, prompt, **wanted)
        found, finished = complaint(session, prompt, kept, **wanted)
        assert found == expected
        assert replace(finished, timings=without.timings, reused=0) == without
        reused.append(finished.reused)
    return reused


def heads(count):
    """Prompts of any length, many with a common start."""
    rng = np.random.default_rng(2)
    for _ in range(count):
        cut = int(rng.integers(0, 50))
        yield [*(TEXT if rng.integers(2) else OTHER)[:cut], *rng.integers(0, 299, size=rng.integers(1, 14)).tolist()]


SAMPLINGS = {"greedy": GREEDY, "sampled": SamplingConfig(temperature=1.5, top_k=50)}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_conversation_is_the_same_with_it_and_without(either, sampling):
    prompts, text = [], []
    for turn in range(5):
        text = [*text, *OTHER[turn * 5 : turn * 5 + 5]]
        prompts.append(text)
        tokens, _ = complaint(either, text, max_new_tokens=7, sampling=SAMPLINGS[sampling])
        text = [*text, *(id_ for id_, *_ in tokens)]
    reused = assert_same_texts(either, prompts, max_new_tokens=7, sampling=SAMPLINGS[sampling])
    assert [len(prompt) for prompt in prompts] == [5, 17, 29, 41, 53]
    assert reused == [0, 0, 16, 16, 32]


@pytest.mark.once
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_prompts_with_shared_starts_are_the_same_with_it_and_without(opened, sampling):
    reused = assert_same_texts(opened, heads(40), sampling=SAMPLINGS[sampling])
    assert set(reused) >= {0, 16, 32}


def test_lookup_finds_the_same_texts_with_it(either):
    """The ids alone: how many tokens a step verifies hangs on a clock, and so do its last bits."""
    kept, drafted = PrefixCache(either, max_bytes=ROOM), 0
    for sampling in SAMPLINGS.values():
        for cut in range(20, 40, 3):
            prompt = (OTHER[:9] * 6)[:cut]
            plain, _ = complaint(either, prompt, logprobs=None, sampling=sampling, max_new_tokens=24)
            found, finished = complaint(
                either, prompt, kept, logprobs=None, sampling=sampling, max_new_tokens=24, lookup=LookupConfig()
            )
            assert found == plain
            drafted += finished.timings.draft_tokens
        assert finished.reused
    assert drafted


def test_a_window_that_slid_neither_reuses_nor_is_kept(either):
    wanted = {"overflow": "slide", "max_new_tokens": 150}
    prompts = [TEXT[:60], TEXT[:40], OTHER * 2]
    assert assert_same_texts(either, prompts, **wanted) == [0, 32, 0]
    kept = PrefixCache(either, max_bytes=ROOM)
    _, finished = complaint(either, TEXT[:40], kept, **wanted)
    assert finished.slides > 2
    assert (len(kept), kept.nbytes) == (1, 32 * TOKEN)


def test_a_truncated_prompt_is_what_is_read_of_it(either):
    assert assert_same_texts(either, [TEXT + OTHER, OTHER, OTHER], overflow="truncate") == [0, 48, 48]


def test_a_prompt_is_kept_before_its_first_token_comes(either):
    kept = PrefixCache(either, max_bytes=ROOM)
    stream = generate(either, TEXT[:40], max_new_tokens=9, prefixes=kept)
    assert isinstance(next(stream), Token)
    stream.close()
    assert complaint(either, TEXT[:40], kept)[1].reused == 32
    (nothing,) = generate(either, TEXT[:40], max_new_tokens=0, prefixes=kept)
    assert isinstance(nothing, Finished)
    assert nothing.reused == 0


def test_only_the_rest_is_read(either, monkeypatch):
    kept = PrefixCache(either, max_bytes=ROOM)
    complaint(either, TEXT[:40], kept)
    lengths, step = [], Session.step_top_k
    monkeypatch.setattr(
        Session, "step_top_k", lambda self, ids, *rest: lengths.append(len(ids[0])) or step(self, ids, *rest)
    )
    complaint(either, [*TEXT[:35], 7, 8], kept, max_new_tokens=3)
    assert lengths == [37 - 32, 1, 1]


def test_while_weights_are_not_packed_nothing_is_kept_or_reused(folder):
    """Their numbers are others. And what was read counts the same, so that packing comes at the same token."""
    plain, sharing = (Session.open(folder, threads=1, prepack=False) for _ in range(2))
    kept = PrefixCache(sharing, max_bytes=ROOM)
    reused, packed = [], []
    for _ in range(4):
        packed.append(sharing.packed)
        expected, _ = complaint(plain, TEXT[:40], max_new_tokens=10)
        found, finished = complaint(sharing, TEXT[:40], kept, max_new_tokens=10)
        assert found == expected
        reused.append(finished.reused)
    assert packed == [False, False, True, True]
    assert reused == [0, 0, 0, 32]
    assert Session.open(folder, threads=1, graph="portable").packed


def test_threads_share_it(serving):
    prompts = list(heads(40))
    alone = [complaint(serving, prompt)[0] for prompt in prompts]
    kept = PrefixCache(serving, max_bytes=100 * TOKEN)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda prompt: complaint(serving, prompt, kept), prompts))
    assert [tokens for tokens, _ in together] == alone
    assert any(finished.reused for _, finished in together)
    assert kept.nbytes <= 100 * TOKEN


def test_a_generator_keeps_them_and_reports_it(folder):
    plain, sharing = TextGenerator.open(folder), TextGenerator.open(folder, prefix_bytes=ROOM)
    for prompt in ("The dog and a dog, " * 4, "The dog and a dog, " * 3 + "a cat"):
        settings = {"max_new_tokens": 9, "seed": 1}
        expected, found = plain.complete(prompt, **settings), sharing.complete(prompt, **settings)
        assert replace(found, timings=expected.timings, reused=0) == expected
        assert expected.reused == 0
    assert found.reused in (16, 32)
    assert plain.prefixes is None


def test_they_are_of_one_session(folder, serving, portable):
    kept = PrefixCache(serving, max_bytes=ROOM)
    with pytest.raises(SettingError, match="prefixes are of another session; make a PrefixCache of this one"):
        generate(portable, TEXT, max_new_tokens=1, prefixes=kept)
    with pytest.raises(SettingError, match="prefixes are of another session"):
        TextGenerator(session=portable, tokenizer=None, prefixes=kept)
    with pytest.raises(SettingError, match="cache is of another session; make a PrefixCache of that one"):
        kept.keep(TEXT, portable.empty_cache())
    assert TextGenerator(session=replace(serving), tokenizer=None, prefixes=kept).prefixes is kept


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "1", None])
def test_a_size_out_of_range_is_refused(serving, value):
    with pytest.raises(SettingError, match=r"max_bytes is .*, must be an integer of at least 1; leave it out for none"):
        PrefixCache(serving, max_bytes=value)


def test_the_size_of_a_generator_is_checked(folder):
    with pytest.raises(SettingError, match="max_bytes is 0, must be"):
        TextGenerator.open(folder, prefix_bytes=0)


def test_a_row_without_the_text_is_not_kept(either):
    kept = PrefixCache(either, max_bytes=ROOM)
    _, cache = either.step([TEXT[:20]], either.empty_cache())
    with pytest.raises(SettingError, match="length is 32, row 0 of the cache holds 20"):
        kept.keep(TEXT[:32], cache)
    assert not len(kept)


@pytest.fixture(scope="module")
def filled(serving):
    """A cache of 64 tokens. It may be kept as of any text: what is tested with it looks at sizes alone."""
    return serving.step([TEXT], serving.empty_cache())[1]


def blocks(*names):
    """A text of this many blocks of 16 tokens, each of one id."""
    return [name for name in names for _ in range(prefix_cache.BLOCK)]


BLOCK_BYTES = prefix_cache.BLOCK * TOKEN


def test_the_least_recently_used_goes_first(serving, filled):
    kept = PrefixCache(serving, max_bytes=3 * BLOCK_BYTES)
    for name in (1, 2, 3):
        kept.keep(blocks(name), filled)
    assert kept.longest(blocks(1))[1] == 16  # used
    kept.keep(blocks(4), filled)
    assert [bool(kept.longest(blocks(name))) for name in (1, 2, 3, 4)] == [True, False, True, True]
    kept.keep(blocks(1), filled)  # there already: used
    kept.keep(blocks(5, 6), filled)
    assert [bool(kept.longest(blocks(name))) for name in (1, 3, 4, 5)] == [True, False, False, True]
    kept.keep(blocks(7, 7, 7, 7), filled)  # more than there is room for
    assert [bool(kept.longest(blocks(name))) for name in (1, 5, 7)] == [True, True, False]


def test_a_start_of_a_kept_text_takes_no_room(serving, filled):
    kept = PrefixCache(serving, max_bytes=ROOM)
    for text in (blocks(1), blocks(1, 2), blocks(1, 2, 3), blocks(1, 2), blocks(1)):
        kept.keep(text, filled)
    assert (len(kept), kept.nbytes) == (1, 3 * BLOCK_BYTES)
    kept.keep(blocks(1, 4), filled)
    assert (len(kept), kept.nbytes) == (2, 5 * BLOCK_BYTES)
    snapshot, length = kept.longest([*blocks(1, 2)[:20], 9])
    assert (snapshot.length, length) == (48, 20)
    assert kept.longest([2]) is None
    assert kept.longest([]) is None


TEXTS = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=4).map(lambda names: blocks(*names))


def shared(one, other):
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1), min(len(one), len(other))
    )


@settings(max_examples=200)
@given(room=st.integers(1, 10), acts=st.lists(st.tuples(st.booleans(), TEXTS), max_size=25))
def test_memory_is_bounded_whatever_comes(serving, filled, room, acts):
    """Beside a plain list of texts, the last used at its end."""
    kept, model = PrefixCache(serving, max_bytes=room * BLOCK_BYTES + 1), []
    for keeps, text in acts:
        common = [shared(known, text) for known in model]
        best = max(common, default=0)
        if not keeps:
            found = kept.longest(text)
            assert (found[1] if found else 0) == best
            assert not found or found[0].length >= best
        else:
            kept.keep(text, filled)
        if best and (not keeps or len(text) <= room * prefix_cache.BLOCK):
            model.append(model.pop(common.index(best)))
        if keeps and best < len(text) <= room * prefix_cache.BLOCK:
            model = [t for t in model if text[: len(t)] != t]
            while sum(map(len, model)) + len(text) > room * prefix_cache.BLOCK:
                del model[0]
            model.append(text)
        assert kept.nbytes == sum(map(len, model)) * TOKEN <= kept.max_bytes
        assert len(kept) == len(model)


def one_too_many(patch):
    right = prefix_cache.Prefix.shared
    patch.setattr(prefix_cache.Prefix, "shared", lambda self, ids: min(len(self.ids), right(self, ids) + 1))


def as_many_as_are_known(patch):
    patch.setattr(prefix_cache, "reusable", lambda shared, count, even: min(shared, count - 1))


def a_last_block_that_is_not_full(patch):
    patch.setattr(prefix_cache, "whole_blocks", lambda count: count)
    patch.setattr(prefix_cache, "reusable", lambda shared, count, even: min(shared, count - 1) // 4 * 4)


def a_last_token_out_of_its_block(patch):
    patch.setattr(prefix_cache, "reusable", lambda shared, count, even: min(shared, count - 1) // 16 * 16)


def a_view_of_the_live_cache(patch):
    patch.setattr(serving.SharedCache, "_read", lambda self, row, length: self.buffers.array[:, :, row, :, :length])


def another_text(patch):
    patch.setattr(prefix_cache.Prefix, "shared", lambda self, ids: min(len(self.ids), len(ids)))


MISTAKES = [
    one_too_many,
    as_many_as_are_known,
    a_last_block_that_is_not_full,
    a_last_token_out_of_its_block,
    a_view_of_the_live_cache,
    another_text,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_in_what_is_reused_shows(folder, monkeypatch, mistake):
    session = Session.open(folder, threads=1, graph="serving")
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        assert_same_bits(session)
