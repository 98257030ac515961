"""The drafts by a plain search, the tokens and their distribution by plain decoding, the pace by simulated steps."""

import math
import random
from itertools import product

import numpy as np
import pytest
from gpt2_runtime import GREEDY, SamplingConfig
from gpt2_runtime.errors import LogitsError, SettingError
from gpt2_runtime.generation.prompt_lookup import MOST_CREDIT, DraftBudget, LookupConfig, LookupIndex, verify_draft
from gpt2_runtime.sampling.filters import probabilities
from gpt2_runtime.sampling.sampler import candidates as left_of
from gpt2_runtime.sampling.sampler import sample
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("name", ["max_ngram", "min_ngram", "max_draft_tokens"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None, "3"])
def test_settings_out_of_range_are_refused_by_name_and_value(name, value):
    with pytest.raises(SettingError, match=f"{name} is {value!r}, must be an integer of at least 1"):
        LookupConfig(**{name: value})


def test_a_range_of_no_ngram_is_refused():
    with pytest.raises(SettingError, match="min_ngram is 4, must be at most max_ngram, which is 3"):
        LookupConfig(min_ngram=4)


# The index.


def searched(ids, config, count):
    """The definition: the longest run at the end that was there before, where it was last; then goes on from there."""
    for size in range(config.max_ngram, config.min_ngram - 1, -1):
        for end in range(len(ids) - 1, size - 1, -1):
            if len(ids) > size and ids[end - size : end] == ids[-size:]:
                drafted = list(ids)
                for place in range(end, end + count):
                    drafted.append(drafted[place])
                return drafted[len(ids) :]
    return []


FEW_TOKENS = st.lists(st.integers(0, 3), max_size=40)


@given(st.lists(FEW_TOKENS, max_size=5), st.integers(1, 3), st.integers(0, 2), st.integers(0, 9))
def test_drafts_are_those_of_a_search_however_the_context_came(pieces, least, more, count):
    config = LookupConfig(min_ngram=least, max_ngram=least + more)
    index, ids = LookupIndex(config), []
    for piece in pieces:
        index.extend(piece)
        ids += piece
        assert index.draft(count) == searched(ids, config, count)


def test_the_longest_match_wins_and_of_equals_the_last():
    index = LookupIndex(LookupConfig(max_ngram=2, min_ngram=1))
    index.extend([1, 2, 3, 9, 2, 4, 9, 2, 5, 0, 1, 2])
    assert index.draft(1) == [3]
    index.extend([7, 2])
    assert index.draft(1) == [7]


def test_numpy_ids_are_read_and_drafts_are_plain_integers():
    index = LookupIndex(LookupConfig())
    index.extend(np.array([1, 2, 3, 1, 2]))
    assert [type(id_) for id_ in index.draft(2)] == [int, int]


# The tokens.

SAMPLINGS = [
    SamplingConfig(),
    SamplingConfig(temperature=0.5),
    SamplingConfig(temperature=2.0, top_k=2),
    SamplingConfig(top_p=0.8),
]
V = 3
MODEL = np.random.default_rng(5).normal(0, 1.5, (V, V)).astype(np.float32)  # logits after each token: [V, V]


def plainly(length, sampling, rng, last=0, stops=()):
    tokens = [last]
    while len(tokens) <= length and tokens[-1] not in stops:
        tokens.append(sample(MODEL[tokens[-1]], sampling, rng))
    return tokens[1:]


def by_drafts(length, sampling, rng, drafter, last=0, stops=()):
    tokens = [last]
    while len(tokens) <= length and tokens[-1] not in stops:
        drafts = [drafter.randrange(V) for _ in range(min(drafter.randrange(5), length - len(tokens)))]
        tokens += verify_draft(MODEL[[tokens[-1], *drafts]], drafts, sampling, rng, stops)
    return tokens[1:]


@pytest.mark.parametrize("sampling", [GREEDY, *SAMPLINGS])
@given(seed=st.integers(0, 10**6), length=st.integers(0, 30), stops=st.sets(st.integers(1, V - 1), max_size=1))
def test_a_seed_gives_the_same_tokens_and_leaves_the_same_generator(sampling, seed, length, stops):
    plain, drafted = np.random.default_rng(seed), np.random.default_rng(seed)
    expected = plainly(length, sampling, plain, stops=stops)
    assert by_drafts(length, sampling, drafted, random.Random(seed), stops=stops) == expected
    assert drafted.bit_generator.state == plain.bit_generator.state


def chi_square_limit(freedom):
    """Which one in a thousand exceeds (Wilson and Hilferty)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.once
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("drafts", [(0, 0), (1, 2), (2, 1)])
def test_drafts_leave_the_distribution_as_it_is(sampling, drafts):
    rng = np.random.default_rng(11)
    likely = np.zeros((V, V))
    for last, row in enumerate(MODEL):
        left = left_of(row, sampling)
        likely[last, left.ids] = probabilities(left)
    counts = dict.fromkeys(product(range(V), repeat=3), 0)
    runs = 4000
    for _ in range(runs):
        tokens = verify_draft(MODEL[[0, *drafts]], drafts, sampling, rng)
        tokens += plainly(3 - len(tokens), sampling, rng, last=tokens[-1])
        counts[tuple(tokens)] += 1
    expected = {(a, b, c): runs * likely[0, a] * likely[a, b] * likely[b, c] for a, b, c in counts}
    assert all(expected[tokens] for tokens, count in counts.items() if count)
    possible = [tokens for tokens in counts if expected[tokens]]
    distance = sum((counts[tokens] - expected[tokens]) ** 2 / expected[tokens] for tokens in possible)
    assert distance < chi_square_limit(len(possible) - 1)


def rows(*likeliest):
    """Logits [K + 1, 4] with these as their highest."""
    return 9 * np.eye(4, dtype=np.float32)[list(likeliest)]


@pytest.mark.parametrize(
    ("drafts", "tokens"),
    [([], [3]), ([3], [3, 1]), ([2], [3]), ([3, 1], [3, 1, 0]), ([3, 2], [3, 1]), ([3, 1, 0, 2], [3, 1, 0, 2, 2])],
)
def test_greedy_goes_on_while_the_drafts_are_right(drafts, tokens):
    logits = rows(3, 1, 0, 2, 2)[: len(drafts) + 1]
    assert verify_draft(logits, drafts, GREEDY, np.random.default_rng(0)) == tokens


def test_nothing_is_drawn_after_a_stop_token():
    rng = np.random.default_rng(0)
    assert verify_draft(rows(3, 1, 0), [3, 1], SamplingConfig(temperature=0.01), rng, stops={1}) == [3, 1]
    other = np.random.default_rng(0)
    other.random(2)
    assert rng.bit_generator.state == other.bit_generator.state


def test_rows_that_do_not_match_the_drafts_are_refused():
    with pytest.raises(SettingError, match="logits have 2 rows, must be 3: one more than the draft"):
        verify_draft(rows(0, 1), [1, 2], GREEDY, np.random.default_rng(0))


def test_damaged_logits_are_refused_where_a_token_is_drawn_from_them():
    logits = rows(0, 1)
    logits[1, 0] = math.nan
    assert verify_draft(logits, [2], GREEDY, np.random.default_rng(0)) == [0]
    with pytest.raises(LogitsError, match="highest logit is nan"):
        verify_draft(logits, [0], GREEDY, np.random.default_rng(0))


# The pace. Milliseconds of a step that reads this many tokens, as measured for GPT-2, and the worst that may be.

CURVES = {
    "fp32": {1: 20.5, 2: 22.2, 4: 23.6, 8: 31.0, 16: 40.7},
    "int8": {1: 8.2, 2: 8.8, 4: 14.4, 8: 25.9, 16: 44.1},
    "proportional": {1: 5.0, 16: 80.0},
    "int8, then proportional": {1: 8.2, 2: 8.8, 16: 70.4},
}


def simulated(right, curve, length, config, pace=lambda place: 1.0):
    """Plain decoding's time over that with drafts, `right(place)` of them right; and the drafts of each step."""
    budget, milliseconds, plain, drafts, place = DraftBudget(), 0.0, 0.0, [], 0
    while place < length:
        count = min(budget.draft_tokens(config.max_draft_tokens), length - place - 1)
        true = 0
        while true < count and right(place + true):
            true += 1
        took = np.interp(1 + count, list(curve), list(curve.values())) * pace(place)
        budget = budget.after(seconds=took / 1000, drafted=count, tokens=true + 1)
        milliseconds += took
        plain += curve[1] * pace(place) * (true + 1)
        drafts.append(count)
        place += true + 1
    return plain / milliseconds, drafts


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("most", [1, 2, 8, 15])
def test_text_that_never_repeats_is_at_most_5_percent_slower(curve, most):
    for length in [20, 21, 25, 30, 40, 60, 100, 200, 500, 1000, 2000]:
        speed, _ = simulated(lambda place: False, curve, length, LookupConfig(max_draft_tokens=most))
        assert 1 / speed <= 1.05, length


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 0.5), length=st.integers(20, 600))
def test_text_that_repeats_now_and_then_is_at_most_5_percent_slower(curve, seed, share, length):
    lucky = random.Random(seed)
    truth = [lucky.random() < share for _ in range(length)]
    speed, _ = simulated(truth.__getitem__, curve, length, LookupConfig())
    assert 1 / speed <= 1.05


@pytest.mark.parametrize("curve", [CURVES["fp32"], CURVES["int8"]], ids=["fp32", "int8"])
@pytest.mark.parametrize("phase", [37, 200, 2000])
@pytest.mark.parametrize("share", [0, 0.05])
def test_a_machine_that_is_not_steady_changes_nothing_of_that(curve, phase, share):
    for seed in range(5):
        chance = random.Random(seed)
        truth = [chance.random() < share for _ in range(1000)]
        paces = [chance.uniform(0.8, 1.2) * (1 if place // phase % 2 else 1.8) for place in range(1000)]
        speed, _ = simulated(truth.__getitem__, curve, 1000, LookupConfig(), paces.__getitem__)
        assert 1 / speed <= 1.05


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("repeating", [0, 50, 500])
def test_once_a_text_stops_to_repeat_little_of_what_was_saved_is_lost(curve, repeating):
    truth, config = lambda place: place < repeating, LookupConfig()
    best, _ = simulated(truth, curve, repeating, config) if repeating else (1.0, None)
    speed, _ = simulated(truth, curve, 1000, config)
    spent = 1000 / speed - (1000 - repeating) - repeating / best  # in plain steps
    assert spent <= 0.05 * 1000 + MOST_CREDIT + 4


@pytest.mark.parametrize("curve", [CURVES["fp32"], CURVES["int8"]], ids=["fp32", "int8"])
@pytest.mark.parametrize("most", [4, 8, 15])
def test_text_that_only_repeats_soon_has_all_drafts_and_nearly_their_speed(curve, most):
    speed, drafts = simulated(lambda place: True, curve, 1000, LookupConfig(max_draft_tokens=most))
    assert drafts[:6] == [0] * 6  # while no loss can be risked
    assert set(drafts[20:-1]) == {most, 0}
    assert drafts[20:-1].count(0) <= len(drafts) / 60  # to time a plain step
    ideal = (1 + most) * curve[1] / np.interp(1 + most, list(curve), list(curve.values()))
    assert speed > 0.93 * ideal


def test_where_the_text_begins_to_repeat_the_drafts_grow_and_where_it_ends_they_shrink():
    _, drafts = simulated(lambda place: 200 <= place < 400, CURVES["fp32"], 600, LookupConfig())
    assert max(drafts[:200]) == 1
    assert drafts.count(8) > 15
    assert set(drafts[-100:]) == {0, 1}


def simulated_rows(rights, curve, steps, most):
    """Of rows that are stepped together: plain steps' time over theirs, of the slowest after each step; and the drafts.

    `rights` says of each row whether the token at a place is drafted rightly; None is a row without drafts. A step
    takes a plain row's time, and beside it that of a run for each row with a draft.
    """
    budget, milliseconds, places, speeds, drafts = DraftBudget(), 0.0, [0] * len(rights), [], []
    drafting = sum(right is not None for right in rights)
    plain = len(rights) - drafting
    for _ in range(steps):
        count = budget.draft_tokens(most, drafting=drafting, plain=plain)
        tokens = []
        for row, right in enumerate(rights):
            true = 0
            while right is not None and true < count and right(places[row] + true):
                true += 1
            tokens.append(true + 1)
            places[row] += true + 1
        run = np.interp(1 + count, list(curve), list(curve.values()))
        took = drafting * run + bool(plain) * curve[1] if count else curve[1]
        budget = budget.after(
            seconds=took / 1000,
            drafted=count,
            tokens=min(tokens),
            right=min(each - 1 for each, right in zip(tokens, rights, strict=True) if right is not None),
            drafting=drafting,
            plain=plain,
        )
        milliseconds += took
        speeds.append(min(places) * curve[1] / milliseconds)
        drafts.append(count)
    return speeds, drafts


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("neighbours", [1, 3, 7])
@pytest.mark.parametrize("drafts", [True, False])
def test_no_row_of_a_batch_is_more_than_5_percent_slower_for_what_its_neighbours_draft(curve, neighbours, drafts):
    never = (lambda place: False) if drafts else None
    speeds, counts = simulated_rows([never] + [lambda place: True] * neighbours, curve, 2000, 8)
    assert min(speeds) >= 1 / 1.05
    assert any(counts)


@pytest.mark.parametrize(("rows", "gain"), [(1, 3.0), (2, 1.5)])
def test_rows_that_all_repeat_are_faster_where_that_pays(rows, gain):
    speeds, drafts = simulated_rows([lambda place: True] * rows, CURVES["fp32"], 600, 8)
    assert speeds[-1] > gain
    assert drafts[-50:].count(8) > 45


def test_what_cannot_pay_among_many_rows_is_tried_and_then_left():
    for rights in ([lambda place: True] + [None] * 7, [lambda place: True] * 16):
        speeds, drafts = simulated_rows(rights, CURVES["fp32"], 4000, 8)
        assert speeds[-1] > 0.98
        assert not any(drafts[-1000:])


def test_a_wrong_draft_halves_them_but_not_below_what_came_true():
    budget = DraftBudget(tokens=1000, plain=(0.02,), unmeasured=0, size=8)
    sizes = [budget.after(seconds=0.03, drafted=8, tokens=1 + right).size for right in (0, 3, 6, 8)]
    assert sizes == [4, 4, 6, 16]


def test_fewer_drafts_than_requested_do_not_shrink_them_when_they_come_true():
    budget = DraftBudget(tokens=1000, plain=(0.02,), unmeasured=0, size=8)
    assert budget.after(seconds=0.02, drafted=1, tokens=2).size == 8


def test_before_a_plain_step_was_timed_nothing_is_drafted():
    assert DraftBudget(tokens=1000).draft_tokens(LookupConfig().max_draft_tokens) == 0


def test_a_hiccup_does_not_make_drafting_look_cheap():
    budget = DraftBudget()
    for seconds in [0.02] * 20 + [0.5] * 2:
        budget = budget.after(seconds=seconds, drafted=0, tokens=1)
    assert budget.after(seconds=0.03, drafted=1, tokens=1).loss == pytest.approx(0.5)


def test_a_hiccup_does_not_make_drafting_look_dear():
    """Such as weights being packed meanwhile: half a second."""
    budget = DraftBudget(tokens=100, plain=(0.02,), unmeasured=0, size=4)
    budget = budget.after(seconds=0.5, drafted=4, tokens=5)
    assert (budget.loss, budget.costs) == (0.0, {(1, 4): 5.0})
    assert budget.draft_tokens(LookupConfig().max_draft_tokens) > 0


def test_runs_so_long_that_they_are_never_indexed_are_refused():
    with pytest.raises(SettingError, match="max_ngram is 65, must be at most 64"):
        LookupConfig(max_ngram=65)
