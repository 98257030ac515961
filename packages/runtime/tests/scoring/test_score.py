"""Scores of given tokens are the log-softmax of one full step, for any context and any chunks."""

import math
from dataclasses import replace

import numpy as np
import pytest
from gpt2_runtime import GREEDY, Token, generate
from gpt2_runtime.errors import EmptyPromptError, LogitsError, PromptTooLongError, SettingError, TokenIdError
from gpt2_runtime.sampling.logprobs import log_softmax
from gpt2_runtime.scoring import score as scoring
from gpt2_runtime.scoring.score import log_likelihood, score, score_prompt

ATOL = 1e-4
IDS = [int(id_) for id_ in np.random.default_rng(5).integers(300, size=65)]  # one more than the model reads


def logprobs(logits):
    """The rows' log-softmax in float64, computed another way."""
    return logits - np.logaddexp.reduce(logits.astype(np.float64), axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def expected(oracle):
    """[64, 300]: the log-probabilities after each of the ids."""
    return logprobs(oracle(IDS[:-1]))


@pytest.mark.parametrize("first", [1, 2, 30, 64])
@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_scores_match_gpt2(either, expected, first, chunk, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    scores, cache = score(either, IDS, first=first)
    assert [token.id for token in scores] == IDS[first:]
    wanted = [expected[place - 1, IDS[place]] for place in range(first, 65)]
    np.testing.assert_allclose([token.logprob for token in scores], wanted, atol=ATOL, rtol=0)
    assert cache.lengths == (64,)


def test_scores_are_bitwise_the_log_softmax_of_one_full_step(serving):
    logits, _ = serving.step([IDS[:-1]], serving.empty_cache(), logits_to_keep=64)
    scores, _ = score(serving, IDS)
    assert [token.logprob for token in scores] == [
        float(log_softmax(row)[id_]) for row, id_ in zip(logits[0], IDS[1:], strict=True)
    ]
    np.testing.assert_allclose([log_softmax(row) for row in logits[0]], logprobs(logits[0]), atol=1e-12, rtol=0)


def test_top_lists_the_likeliest_in_order_and_rank_is_the_place_in_it(either):
    logits, _ = either.step([IDS[:-1]], either.empty_cache(), logits_to_keep=64)
    scores, _ = score(either, IDS, top=300)
    for row, token in zip(logits[0], scores, strict=True):
        order = sorted(range(300), key=lambda id_, row=row: (-row[id_], id_))
        assert [id_ for id_, _ in token.top_logprobs] == order
        assert token.rank == 1 + order.index(token.id)
        assert dict(token.top_logprobs)[token.id] == token.logprob
        assert math.fsum(math.exp(logprob) for _, logprob in token.top_logprobs) == pytest.approx(1, abs=1e-12)
    few, _ = score(either, IDS, top=3)
    assert [token.top_logprobs for token in few] == [token.top_logprobs[:3] for token in scores]
    assert [token.top_logprobs for token in score(either, IDS)[0]] == [()] * 64


def test_the_lowest_of_tied_ids_ranks_first():
    tied = np.zeros(5, dtype=np.float32)
    assert [scoring._scored(tied, id_, 0).rank for id_ in range(5)] == [1, 2, 3, 4, 5]
    assert [id_ for id_, _ in scoring._scored(tied, 3, 2).top_logprobs] == [0, 1]


def test_every_token_of_greedy_text_has_rank_1(either):
    events = generate(either, IDS[:9], max_new_tokens=20, sampling=GREEDY, stop_token_ids=())
    new = [event.id for event in events if isinstance(event, Token)]
    scores, _ = score(either, IDS[:9] + new, first=9)
    assert [token.rank for token in scores] == [1] * 20


@pytest.mark.parametrize("read", [1, 20, 29])
def test_cached_tokens_are_not_read_again(either, expected, read, monkeypatch):
    _, cache = either.step([IDS[:read]], either.empty_cache())
    seen = []
    step = type(either).step
    monkeypatch.setattr(type(either), "step", lambda self, ids, *rest: seen.extend(ids[0]) or step(self, ids, *rest))
    scores, cache = score(either, IDS[:40], first=30, cache=cache)
    assert seen == IDS[read:39]
    wanted = [expected[place - 1, IDS[place]] for place in range(30, 40)]
    np.testing.assert_allclose([token.logprob for token in scores], wanted, atol=ATOL, rtol=0)
    assert cache.lengths == (39,)


def test_a_prompt_is_echoed_with_a_score_for_all_but_the_first(either):
    scores = score_prompt(either, IDS[:10], top=2)
    assert [token.id for token in scores] == IDS[:10]
    assert (scores[0].logprob, scores[0].rank, scores[0].top_logprobs) == (None, None, ())
    assert scores[1:] == score(either, IDS[:10], top=2)[0]
    assert score_prompt(either, [7]) == (scoring.TokenScore(id=7),)
    assert log_likelihood(scores) == pytest.approx(sum(token.logprob for token in scores[1:]))


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_score_is_refused(session, count):
    with pytest.raises(EmptyPromptError, match=f"text has {count} tokens?, must have at least 2"):
        score(session, IDS[:count])


def test_an_empty_prompt_is_refused(session):
    with pytest.raises(EmptyPromptError, match="text has 0 tokens"):
        score_prompt(session, [])


def test_more_ids_than_the_model_scores_are_refused(session):
    with pytest.raises(PromptTooLongError, match="text has 66 tokens, the model reads 64 and scores one more"):
        score(session, [*IDS, 1])


@pytest.mark.parametrize("ids", [[1, 300], [-1, 2], [1, 2, 999]])
@pytest.mark.parametrize("scored", [score, score_prompt])
def test_an_id_outside_the_vocabulary_is_refused(session, ids, scored):
    with pytest.raises(TokenIdError, match="must be from 0 to 299"):
        scored(session, ids)


def test_a_prompt_of_one_token_is_checked_too(session):
    with pytest.raises(TokenIdError, match="token id is 300"):
        score_prompt(session, [300])
    with pytest.raises(SettingError, match="top is -1"):
        score_prompt(session, [3], top=-1)


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ({"first": 0}, "first is 0, must be an integer from 1 to 2"),
        ({"first": 3}, "first is 3, must be an integer from 1 to 2"),
        ({"first": True}, "first is True, must be an integer from 1 to 2"),
        ({"top": -1}, "top is -1, must be an integer from 0 to 300"),
        ({"top": 301}, "top is 301, must be an integer from 0 to 300"),
        ({"top": 1.0}, r"top is 1\.0, must be an integer from 0 to 300"),
    ],
)
def test_a_setting_out_of_range_is_refused(session, setting, shown):
    with pytest.raises(SettingError, match=shown):
        score(session, [1, 2, 3], **setting)


def test_a_cache_that_does_not_fit_is_refused(session):
    _, read = session.step([[1, 2]], session.empty_cache())
    with pytest.raises(SettingError, match=r"cache has 1 rows and 2 tokens; .* fewer than the 2 tokens before"):
        score(session, [1, 2, 3], first=2, cache=read)
    with pytest.raises(SettingError, match="cache has 2 rows and 0 tokens"):
        score(session, [1, 2, 3], cache=session.empty_cache(2))


def test_a_damaged_model_is_reported(session, monkeypatch):
    class Damaged:
        def __getattr__(self, name):
            return getattr(session.opened, name)

        def step(self, *arguments):
            logits, cache = session.opened.step(*arguments)
            return logits * np.nan, cache

    with pytest.raises(LogitsError, match="highest logit is nan"):
        score(replace(session, opened=Damaged()), [1, 2, 3])


@pytest.mark.parametrize("ids", [None, 5, "text", [[5, 6]], [5.0, 6.0], {5, 6}], ids=repr)
def test_ids_of_another_type_are_refused(session, ids):
    for scored in (score, score_prompt):
        with pytest.raises(SettingError, match="row of ids is"):
            scored(session, ids)


def test_a_cache_of_another_type_is_refused(session):
    with pytest.raises(SettingError, match="cache is 5, must come from empty_cache or a step"):
        score(session, [5, 6], cache=5)
