"""Windows and weights against the loop of transformers' page, written out with one log-softmax per window."""

import math
import tracemalloc

import numpy as np
import pytest
from gpt2_runtime.errors import EmptyPromptError, SettingError, TokenIdError
from gpt2_runtime.scoring import score as scoring
from gpt2_runtime.scoring.perplexity import Perplexity, perplexity, score_windows, windows
from gpt2_runtime.scoring.score import TokenScore
from hypothesis import given
from hypothesis import strategies as st

IDS = [int(id_) for id_ in np.random.default_rng(6).integers(300, size=200)]


def page(logprobs, ids, max_length, stride):
    """The page's loop: labels of -100 are not scored; the shift drops the label of a window's first token."""
    nll_sum, n_tokens, every, previous = 0.0, 0, [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        target = end - previous
        held = ids[begin:end]
        labels = [-100] * (len(held) - target) + held[len(held) - target :]
        window = logprobs(held)
        losses = [-window[place, label] for place, label in enumerate(labels[1:]) if label != -100]
        valid = sum(label != -100 for label in labels) - 1
        if losses:  # the mean of none is NaN there
            nll_sum += sum(losses) / len(losses) * valid
        n_tokens += valid
        every += losses
        previous = end
        if end == len(ids):
            break
    return math.exp(nll_sum / n_tokens), every


@pytest.fixture(scope="module")
def logprobs(oracle):
    def log_softmax(ids):
        logits = oracle(ids)
        return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)

    return log_softmax


# Shorter than the window, one window and one token more or less, several windows, and one token more than that.
@pytest.mark.parametrize("length", [2, 31, 32, 33, 63, 64, 65, 96, 97, 200])
@pytest.mark.parametrize(("window", "stride"), [(32, 32), (32, 16), (32, 7), (32, 1), (64, 32), (2, 1), (2, 2)])
def test_the_figures_match_the_page(session, logprobs, length, window, stride):
    expected, losses = page(logprobs, IDS[:length], window, stride)
    result = perplexity(session, IDS[:length], window=window, stride=stride)
    assert math.log(result.perplexity) == pytest.approx(math.log(expected), abs=1e-4)
    assert (result.tokens, result.scored_tokens) == (length, len(losses))
    assert result.log_likelihood == pytest.approx(-sum(losses), abs=1e-4 * len(losses))
    assert math.log(result.token_perplexity) == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_both_graphs_agree(serving, portable):
    first, second = (perplexity(session, IDS, window=64, stride=48) for session in (serving, portable))
    assert first.log_likelihood == pytest.approx(second.log_likelihood, abs=1e-2)
    assert (first.tokens, first.windows) == (second.tokens, second.windows)


@given(length=st.integers(2, 300), window=st.integers(2, 64), stride=st.integers(1, 64))
def test_each_token_is_new_in_exactly_one_window(length, window, stride):
    if stride > window:
        return
    parts = list(windows(length, window, stride))
    assert [place for part in parts for place in range(part.fresh, part.end)] == list(range(length))
    assert all(part.begin <= part.fresh < part.end <= part.begin + window for part in parts)
    assert [part.begin for part in parts] == [stride * number for number in range(len(parts))]


def test_every_token_is_reported_once_in_order(session):
    tokens = [token for _, scores in score_windows(session, IDS, window=32, stride=32, top=1) for token in scores]
    assert [token.id for token in tokens] == IDS
    unscored = [place for place, token in enumerate(tokens) if token.logprob is None]
    assert unscored == list(range(0, 200, 32))  # the first of each window
    overlapping = [token for _, scores in score_windows(session, IDS, window=32, stride=31) for token in scores]
    assert [token.logprob is None for token in overlapping] == [True] + [False] * 199


def test_window_and_stride_default_to_all_and_half_of_the_model_positions(session):
    assert [(part.begin, part.end) for part, _ in score_windows(session, IDS[:100])] == [(0, 64), (32, 96), (64, 100)]
    assert [part.begin for part, _ in score_windows(session, IDS[:30], window=9)] == list(range(0, 25, 4))


def test_bits_per_byte_count_the_bytes_of_scored_tokens():
    scores = [TokenScore(id=0), TokenScore(id=1, logprob=-math.log(8), rank=2)]
    assert Perplexity().after(scores).bits_per_byte(4) == pytest.approx(3 / 4)


def test_a_huge_loss_has_infinite_perplexity_and_raises_nothing():
    scores = [TokenScore(id=0), TokenScore(id=1, logprob=-1e5, rank=2)]
    assert Perplexity().after(scores).perplexity == math.inf


def test_memory_does_not_grow_with_the_length_of_the_text(session, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", 8)

    def most(count):
        tracemalloc.start()
        for _ in score_windows(session, IDS[:1] * count, window=64, stride=64):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(64)  # one-time allocations
    one, many = most(64), most(6400)
    logits = 6400 * 300 * 4
    assert many - one < logits / 20
    assert one < 64 * 300 * 4 * 3


@pytest.mark.parametrize("ids", [[], [5]])
def test_a_text_without_a_scorable_token_is_refused_at_the_call(session, ids):
    with pytest.raises(EmptyPromptError, match=f"text has {len(ids)} tokens?, must have at least 2"):
        score_windows(session, ids)


def test_an_id_outside_the_vocabulary_is_refused_at_the_call(session):
    with pytest.raises(TokenIdError, match="token id is 300"):
        score_windows(session, [*IDS, 300])


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ({"window": 1}, "window is 1, must be an integer from 2 to 64"),
        ({"window": 65}, "window is 65, must be an integer from 2 to 64"),
        ({"window": True}, "window is True, must be"),
        ({"stride": 0}, "stride is 0, must be an integer from 1 to 64, the window"),
        ({"stride": 65}, "stride is 65, must be an integer from 1 to 64"),
        ({"window": 8, "stride": 9}, "stride is 9, must be an integer from 1 to 8"),
        ({"stride": 2.0}, r"stride is 2\.0, must be"),
        ({"top": 301}, "top is 301, must be an integer from 0 to 300"),
    ],
)
def test_a_setting_out_of_range_is_refused(session, setting, shown):
    with pytest.raises(SettingError, match=shown):
        list(score_windows(session, IDS, **setting))
