"""Best of n in closed form against every subset written out; matching at equal tokens against hand-derived numbers."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.scoring.best_of_n import best_of_n_scores, match_tokens, pick_probabilities
from srpo_core.scoring.win_rate import paired_difference

NAN = float("nan")


def naive_best_of_n(values: list[float], scores: list[float], n: int) -> float:
    """Mean score of the highest value over all subsets of n; equal values share the pick."""
    means = []
    for subset in itertools.combinations(range(len(values)), n):
        highest = max(values[i] for i in subset)
        means.append(np.mean([scores[i] for i in subset if values[i] == highest]))
    return float(np.mean(means))


drafts = st.integers(1, 7).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(0, 3).map(float), min_size=size, max_size=size),  # few values: ties are common
        st.lists(st.floats(0, 1), min_size=size, max_size=size),
    )
)


@given(drafts)
def test_the_closed_form_is_the_mean_over_all_subsets(case: tuple[list[float], list[float]]) -> None:
    values, scores = case
    expected = [naive_best_of_n(values, scores, n) for n in range(1, len(values) + 1)]
    assert best_of_n_scores([values], [scores])[0] == pytest.approx(expected, abs=1e-12)


@given(drafts)
def test_a_pick_is_certain_whatever_n(case: tuple[list[float], list[float]]) -> None:
    assert pick_probabilities(case[0]).sum(axis=1) == pytest.approx(1.0)


def test_three_drafts_by_hand() -> None:
    """Values 1 < 2 < 3 and scores .9, .3, .6: n = 1 is their mean .6; the pairs pick .3, .6, .6, mean .5; n = 3 picks .6."""
    assert best_of_n_scores([[1, 2, 3]], [[0.9, 0.3, 0.6]])[0] == pytest.approx([0.6, 0.5, 0.6])


def test_a_draft_without_a_value_is_picked_last_and_one_without_a_score_is_no_loss() -> None:
    assert best_of_n_scores([[NAN, 1.0]], [[0.9, 0.3]])[0] == pytest.approx([0.6, 0.3])
    found = best_of_n_scores([[1.0, 2.0]], [[0.4, NAN]])[0]
    assert found[0] == pytest.approx(0.4) and np.isnan(found[1]), "the best of two has no score: missing, not lost"


def test_many_drafts_neither_overflow_nor_lose_precision() -> None:
    values, scores = np.arange(256.0), np.linspace(0, 1, 256)
    curve = best_of_n_scores([values], [scores])[0]
    n = np.arange(1, 257)
    assert curve == pytest.approx((n * 257 / (n + 1) - 1) / 255), "the expected maximum of n of the numbers 1..N is n(N+1)/(n+1)"


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape \(P, N\), found \(1, 2\) and \(1, 1\)"):
        best_of_n_scores([[1, 2]], [[0.5]])


def test_a_fractional_n_is_a_mixture_of_its_neighbours() -> None:
    """Tokens 25 against drafts of 10: n = 2.5, halfway between best of two (.4, .6) and of three (.6, .8): .6 on average."""
    match = match_tokens([0.9, 0.7], [25, 25], [[0.1, 0.4, 0.6], [0.2, 0.6, 0.8]], [10, 10])
    assert match.num_drafts == 2.5 and match.mean_tokens == 25
    assert match.drafts_win_rate == pytest.approx(0.6) and match.difference.estimate == pytest.approx(0.2)
    naive = paired_difference([0.9, 0.7], [0.5, 0.7])
    assert match.difference == pytest.approx(naive), "with equal costs everywhere it is the paired difference"


def test_too_few_drafts_give_no_difference_and_say_how_many_it_takes() -> None:
    match = match_tokens([0.9, 0.7], [30, 50], [[0.1, 0.4], [0.2, 0.6]], [10, 10])
    assert match.num_drafts == 4 and match.revisions_win_rate == pytest.approx(0.8)
    assert match.difference.n == 0 and np.isnan([match.drafts_win_rate, match.difference.estimate]).all()


@pytest.mark.parametrize(("tokens", "column"), [(10, 0), (30, 2)])
def test_the_ends_of_the_curve_are_reached(tokens: int, column: int) -> None:
    best = np.array([[0.1, 0.4, 0.6], [0.2, 0.6, 0.8]])
    match = match_tokens([0.9, 0.7], [tokens, tokens], best, [10, 10])
    assert match.drafts_win_rate == pytest.approx(best[:, column].mean())


def test_nothing_is_cheaper_than_one_draft() -> None:
    match = match_tokens([0.9, 0.7], [5, 6], [[0.1, 0.4], [0.2, 0.6]], [10, 10])
    assert match.num_drafts == 1 and match.difference.estimate == pytest.approx(0.65)
    assert match.difference == pytest.approx(paired_difference([0.9, 0.7], [0.1, 0.2]))


def test_a_prompt_that_one_side_lacks_counts_on_neither() -> None:
    best = [[0.1, 0.4], [0.2, 0.6], [0.3, NAN], [0.3, 0.4]]
    match = match_tokens([0.9, 0.7, 0.5, NAN], [20, 20, 90, 90], best, [10, 10, 10, 10])
    assert (match.num_drafts, match.difference.n) == (2, 2) and match.difference.estimate == pytest.approx(0.3)
    nothing = match_tokens([NAN], [20], [[0.1, 0.2]], [10])
    assert nothing.difference.n == 0 and np.isnan(nothing.num_drafts)


def test_the_interval_allows_for_the_match_being_estimated() -> None:
    """Against a bootstrap over clusters that finds n anew in every resample."""
    rng = np.random.default_rng(0)
    size, num_drafts = 300, 8
    cost = rng.uniform(5, 60, size)
    tokens = 3.3 * rng.uniform(5, 60, size)
    gain = rng.uniform(0, 0.12, (size, 1))
    best = np.clip(0.1 + gain * np.arange(num_drafts) + 0.05 * rng.standard_normal((size, 1)), 0, 1)
    revised = np.clip(0.5 + 0.05 * rng.standard_normal(size), 0, 1)
    clusters = np.repeat(np.arange(150), 2).astype(str)

    def estimate(weights: np.ndarray) -> float:
        wanted = np.average(tokens, weights=weights) / np.average(cost, weights=weights)
        curve = np.average(best, axis=0, weights=weights)
        return float(np.average(revised, weights=weights) - np.interp(wanted, np.arange(1, num_drafts + 1), curve))

    draws = rng.multinomial(150, np.full(150, 1 / 150), 3000)
    spread = np.std([estimate(np.repeat(draw, 2).astype(float)) for draw in draws], ddof=1)
    match = match_tokens(revised, tokens, best, cost, clusters)
    assert match.difference.estimate == pytest.approx(estimate(np.ones(size)))
    assert match.difference.standard_error == pytest.approx(spread, rel=0.06)
    lower = int(match.num_drafts)
    share = match.num_drafts - lower
    fixed = paired_difference(revised, (1 - share) * best[:, lower - 1] + share * best[:, lower], clusters)
    assert fixed.standard_error < 0.8 * spread, "this case would show an interval that takes n as known"
