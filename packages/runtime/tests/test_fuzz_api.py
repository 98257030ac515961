"""Values of any type for every argument: each call does what it says, or refuses in one line.

GPT2_RUNTIME_FUZZ=20 tries twenty times as many.
"""

import json
from functools import cache

import numpy as np
import pytest
from fuzz_strategies import (
    COUNTS,
    IDS,
    KINDS,
    POSITIONS,
    PROMPTS,
    REQUEST,
    SAMPLING,
    SETTINGS,
    STRINGS,
    TEXTS,
    VOCABULARY,
    answer,
    fuzzed,
    keywords,
    mostly,
)
from gpt2_runtime import (
    LookupConfig,
    PrefixCache,
    Prompt,
    SamplingConfig,
    Session,
    TextGenerator,
    Tokenizer,
    beam_search,
    complete_batch,
    generate,
    perplexity,
    score,
    score_prompt,
    score_windows,
)
from gpt2_runtime.batch_file.file import run
from gpt2_runtime.batch_file.line import NAMES, Defaults, read
from gpt2_runtime.generation.events import Finished
from gpt2_runtime.generation.request import Request
from gpt2_runtime.generation.scheduler import Scheduler
from gpt2_runtime.precisions import PRECISIONS
from gpt2_runtime.sampling.sampler import sample
from gpt2_runtime.tokenizer.stop_strings import StopStrings
from hypothesis import assume, given
from hypothesis import strategies as st


def check_completion(found, tokenizer, given):
    assert all(0 <= id_ < VOCABULARY for id_ in found.token_ids)
    assert len(found.token_ids) <= given.get("max_new_tokens", 100)
    assert found.finish_reason in ("stop", "length")
    assert found.text == tokenizer.decode(found.token_ids) or given.get("stop")
    assert (found.logprobs is None) == (given.get("logprobs") is None)
    for token in (found.logprobs or ()) + (found.prompt_logprobs or ())[1:]:
        assert token.logprob <= 0
    json.dumps(found.to_dict())


@pytest.fixture(scope="module")
def opened(folder):
    """(precision, graph) -> a generator."""

    @cache
    def open_kind(kind):
        precision, graph = kind
        return TextGenerator.open(folder, precision=precision, graph=graph, threads=1, prefix_bytes=2**16)

    return open_kind


@fuzzed(150)
@given(SAMPLING, PROMPTS)
def test_sampling(config, prompt):
    made = answer(SamplingConfig, **config)
    if made is not None:
        logits = np.linspace(-9, 9, VOCABULARY, dtype=np.float32)
        assume(not any(id_ >= VOCABULARY for word in made.bad_words_ids for id_ in word))
        assume(not any(id_ >= VOCABULARY for id_, _ in made.logit_bias))
        found = answer(
            sample, logits, made, np.random.default_rng(0), prompt_ids=prompt, new_ids=[7], stop_token_ids=[5]
        )
        assert found is None or 0 <= found < VOCABULARY


@fuzzed(150)
@given(mostly(PROMPTS), keywords(**REQUEST))
def test_request(prompt, given):
    made = answer(Request, prompt_ids=prompt, **{"max_new_tokens": 1, **given})
    if made is not None:
        answer(made.fitting, POSITIONS, None)


@fuzzed(120)
@given(KINDS, mostly(PROMPTS), keywords(**REQUEST, lookup=st.just(LookupConfig()), rng=st.none(), prefixes=st.none()))
def test_generate(opened, kind, prompt, given):
    session = opened(kind).session
    given = {"max_new_tokens": 3, **given}
    events = answer(lambda: list(generate(session, prompt, **given)))
    if events is not None:
        *tokens, end = events
        assert isinstance(end, Finished)
        assert [token.index for token in tokens] == list(range(len(tokens)))
        assert all(0 <= token.id < VOCABULARY for token in tokens)
        assert len(tokens) <= given["max_new_tokens"]


@fuzzed(150)
@given(KINDS, mostly(TEXTS | PROMPTS), SETTINGS, mostly(st.none() | st.just(LookupConfig())))
def test_complete(opened, kind, prompt, given, lookup):
    generator = opened(kind)
    found = answer(generator.complete, prompt, lookup=lookup, **given)
    if found is not None:
        check_completion(found, generator.tokenizer, given)


@fuzzed(60)
@given(KINDS, mostly(TEXTS | PROMPTS), SETTINGS)
def test_stream(opened, kind, prompt, given):
    generator = opened(kind)
    stream = answer(generator.stream, prompt, **given)
    if stream is not None:
        pieces = answer(list, stream)
        assert pieces is None or "".join(pieces) == stream.completion.text


@fuzzed(60)
@given(KINDS, mostly(TEXTS | PROMPTS), mostly(st.integers(1, 4)), SETTINGS)
def test_start(opened, kind, prompt, n, given):
    generator = opened(kind)
    made = answer(generator.start, prompt, n=n, **given)
    assert made is None or len(made) == n


BEAMS = keywords(
    num_beams=st.integers(1, 4),
    length_penalty=st.floats(-10, 10),
    early_stopping=st.sampled_from([True, False, "never"]),
)


@fuzzed(80)
@given(KINDS, mostly(TEXTS | PROMPTS), BEAMS, mostly(st.integers(1, 2)), SETTINGS)
def test_search(opened, kind, prompt, beams, n, given):
    generator = opened(kind)
    found = answer(generator.search, prompt, **{"num_beams": 2, **beams}, n=n, **given)
    if found is not None:
        assert 1 <= len(found) <= n
        assert all(each.text == generator.tokenizer.decode(each.token_ids) for each in found)


@fuzzed(80)
@given(KINDS, mostly(PROMPTS), BEAMS, keywords(**{**REQUEST, "num_return_sequences": st.integers(1, 2)}))
def test_beam_search(opened, kind, prompt, beams, given):
    session = opened(kind).session
    given.pop("logprobs", None)
    found = answer(beam_search, session, prompt, **{"num_beams": 2, "max_new_tokens": 3, **beams, **given})
    if found is not None:
        scores = [beam.score for beam in found]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= id_ < VOCABULARY for beam in found for id_ in beam.token_ids)


ENTRIES = st.builds(
    lambda prompt, given, n: answer(Prompt, prompt=prompt, settings=given, n=n),
    mostly(TEXTS | PROMPTS),
    mostly(SETTINGS),
    mostly(st.integers(1, 3)),
)


@fuzzed(60)
@given(KINDS, mostly(st.lists(mostly(ENTRIES), max_size=4)), mostly(st.integers(1, 5)))
def test_complete_batch(opened, kind, prompts, rows):
    generator = opened(kind)
    results = answer(lambda: list(complete_batch(generator, prompts, rows=rows)))
    if results is not None:
        assert sorted(result.index for result in results) == list(range(len(prompts)))
        for result in results:
            assert (result.error is None) == bool(result.completions)
            for found in result.completions:
                check_completion(found, generator.tokenizer, prompts[result.index].settings)


@fuzzed(100)
@given(KINDS, mostly(PROMPTS), mostly(st.integers(1, 6)), mostly(COUNTS), mostly(st.none()))
def test_score(opened, kind, ids, first, top, cache):
    session = opened(kind).session
    found = answer(score, session, ids, first=first, top=top, cache=cache)
    if found is not None:
        scores, after = found
        assert len(scores) == len(ids) - first
        assert after.lengths == (len(ids) - 1,)
        assert all(token.logprob <= 0 and len(token.top_logprobs) == top for token in scores)
    echoed = answer(score_prompt, session, ids, top=top)
    assert echoed is None or [token.id for token in echoed] == list(ids)


@fuzzed(80)
@given(KINDS, mostly(PROMPTS), keywords(window=st.integers(2, POSITIONS), stride=st.integers(1, 8)), mostly(COUNTS))
def test_perplexity(opened, kind, ids, given, top):
    session = opened(kind).session
    found = answer(perplexity, session, ids, **given)
    if found is not None:
        assert found.tokens == len(ids)
        assert found.log_likelihood <= 0
        assert found.perplexity >= 1
    windows = answer(lambda: list(score_windows(session, ids, top=top, **given)))
    assert windows is None or sum(len(scores) for _, scores in windows) == len(ids)


@fuzzed(80)
@given(KINDS, mostly(st.integers(1, 10**6)), mostly(PROMPTS), mostly(st.just(0)))
def test_prefix_cache(opened, kind, most, ids, row):
    session = opened(kind).session
    prefixes = answer(lambda: PrefixCache(session, max_bytes=most))
    if prefixes is None:
        return
    _, cache = session.step([[5] * 40], session.empty_cache())
    prefixes.keep([5] * 40, cache)
    answer(prefixes.keep, ids, cache, row)
    found = answer(prefixes.longest, ids)
    assert found is None or found[1] <= len(ids)
    assert prefixes.nbytes <= most


@fuzzed(60)
@given(KINDS, mostly(st.integers(1, 9)), mostly(st.none()))
def test_scheduler(opened, kind, rows, prefixes):
    session = opened(kind).session
    made = answer(lambda: Scheduler(session, rows=rows, prefixes=prefixes))
    assert made is None or (made.idle and made.free == rows)


@fuzzed(100)
@given(mostly(st.lists(mostly(PROMPTS), min_size=1, max_size=3)), mostly(st.integers(1, 3)), mostly(COUNTS))
def test_steps(serving, portable, ids, rows, keep):
    for session in (serving, portable):
        cache = answer(session.empty_cache, rows, capacity=keep) or session.empty_cache(3)
        stepped = answer(session.step, ids, cache, keep)
        if stepped is not None:
            logits, after = stepped
            assert logits.shape == (cache.batch_size, keep, VOCABULARY)
            assert after.lengths == tuple(map(len, ids))
        answer(session.step, [[5]], ids)
        answer(session.empty_cache, capacity=rows)


@fuzzed(100)
@given(
    mostly(COUNTS | st.lists(COUNTS, min_size=2, max_size=2)),
    mostly(st.lists(st.integers(0, 1), min_size=1, max_size=4)),
    mostly(st.integers(0, 1)),
)
def test_caches(serving, portable, lengths, rows, row):
    for session in (serving, portable):
        _, cache = session.step([[5, 6, 7], [8, 9, 10]], session.empty_cache(2))
        shorter = answer(cache.crop, lengths)
        assert shorter is None or shorter.lengths == tuple(np.broadcast_to(lengths, 2))
        taken = answer(cache.snapshot, row, lengths)
        assert taken is None or taken.length == lengths
        answer(cache.restore, row, rows)
        given = answer(cache.restore, row, cache.snapshot(0, 3), lengths)
        cache = given or cache
        chosen = answer(cache.reorder, rows)
        assert chosen is None or chosen.batch_size == len(rows)


@fuzzed(150)
@given(KINDS, mostly(TEXTS), mostly(st.lists(IDS)), st.booleans())
def test_tokenizer(opened, kind, text, ids, parse_special):
    generator = opened(kind)
    tokenizer = generator.tokenizer
    found = answer(tokenizer.encode, text, parse_special=parse_special)
    assert found is None or tokenizer.decode(found) == text
    decoded = answer(tokenizer.decode, ids)
    assert decoded is None or isinstance(decoded, str)


@fuzzed(100)
@given(mostly(STRINGS), st.lists(st.text("To be, orntaie ", max_size=9)))
def test_stop_strings(stops, pieces):
    matcher = answer(StopStrings, stops)
    if matcher is not None:
        passed = "".join(map(matcher.feed, pieces)) + matcher.flush()
        assert "".join(pieces).startswith(passed)


@fuzzed(60)
@given(KINDS, keywords(max_ngram=st.integers(2, 5), min_ngram=st.integers(1, 2), max_draft_tokens=st.integers(1, 9)))
def test_lookup(opened, kind, given):
    session = opened(kind).session
    made = answer(lambda: LookupConfig(**given))
    if made is not None:
        assert list(generate(session, [5, 6, 5, 6, 5], max_new_tokens=4, lookup=made))


DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        name: st.recursive(
            st.none() | st.booleans() | st.integers(-2, 9) | st.just(10**400) | st.floats() | TEXTS,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2),
            max_leaves=4,
        )
        for name in (*NAMES, "temprature", "two\nlines")
    },
)
NESTED = st.integers(1, 3000).map(lambda depth: b'{"prompt": "a", "stop": ' + b"[" * depth + b"]" * depth + b"}")
LINES = st.one_of(
    DOCUMENTS.map(lambda document: json.dumps(document).encode()),
    st.binary(max_size=20),
    NESTED,
    st.just(b'{"prompt": "a", "stop": ' + b"[" * 10**5),
    st.just(b'{"prompt": "' + b"x" * 10**6 + b'"}'),
    st.just(b'{"prompt": "a", "max_new_tokens": 2}'),
).map(lambda line: line.replace(b"\n", b" "))


@fuzzed(250)
@given(LINES, mostly(st.integers(0, 9)))
def test_job(line, seed):
    defaults = answer(lambda: Defaults(seed=seed))
    if defaults is not None:
        job = answer(read, line, 1, defaults)
        assert job is None or json.loads(job.key) == job.id


@fuzzed(40)
@given(KINDS, st.lists(LINES, max_size=5), st.binary(max_size=30) | st.just(b""), mostly(st.integers(1, 3)))
def test_jobs(opened, tmp_path_factory, kind, lines, before, rows):
    generator = opened(kind)
    target = tmp_path_factory.mktemp("jobs") / "answers.jsonl"
    target.write_bytes(before)
    refusals = []
    defaults = Defaults(settings={"max_new_tokens": 3})
    done = answer(
        lambda: run(generator, lines, target, defaults=defaults, rows=rows, refused=lambda *bad: refusals.append(bad))
    )
    if done is None:
        assert target.read_bytes() == before or refusals
        return
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(answers) == done.answered
    assert len(refusals) == done.failed
    for _, error in refusals:
        answer(_raise, error)
    assert answer(lambda: run(generator, lines, target, defaults=defaults, rows=rows)).answered == 0


def _raise(error):
    raise error


@fuzzed(120)
@given(
    keywords(
        precision=st.sampled_from(PRECISIONS),
        provider=st.just("cpu"),
        threads=st.just(1),
        graph=st.sampled_from(["serving", "portable"]),
        prefix_bytes=st.none() | st.integers(1, 10**6),
    ),
    mostly(st.none()),
)
def test_opening(folder, given, other):
    opened = answer(TextGenerator.open, folder if other is None else other, **{"threads": 1, **given})
    if opened is not None:
        assert opened.complete("To be", max_new_tokens=1, stop_token_ids=()).token_ids
    if other is not None:
        assert answer(Session.open, other) is None
        assert answer(Tokenizer.open, other) is None
