"""Promotion: the numbers by hand, the guards, and by simulation that luck does not ratchet."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from srpo_core.scoring.promotion import SetScores, TextShares, compare, mean_difference, spend_level, text_shares
from srpo_core.scoring.win_rate import Floats, paired_difference
from srpo_core.settings.retraining import PromotionSettings

SETTINGS = PromotionSettings(margin=0.05)
PLAIN = TextShares(mean_tokens=20.0, empty=0.0, repeated=0.0, copied=0.0)


def one_set(differences: list[float], name: str = "id", clusters: list[str] | None = None) -> SetScores:
    """A set in which the champion scores one half everywhere."""
    values = np.array(differences) + 0.5
    return SetScores(name, values, np.full(len(values), 0.5), clusters or [f"{name}-{i}" for i in range(len(values))])


def test_of_one_set_the_lower_limit_is_mean_minus_t_times_standard_error():
    """d = .1 .3 .2 .4: mean .25, variance .05/3, SE = sqrt(.05/3/4) = .0645; t(.95, 3) = 2.3534; lower = .25 - .1519 = .0981."""
    found = mean_difference([one_set([0.1, 0.3, 0.2, 0.4])], 0.05)
    assert found.estimate == pytest.approx(0.25)
    assert found.standard_error == pytest.approx(0.06455, abs=1e-5)
    assert found.ci_low == pytest.approx(0.25 - 2.35336 * 0.06455, abs=1e-4)
    own = paired_difference(one_set([0.1, 0.3, 0.2, 0.4]).challenger, np.full(4, 0.5), confidence=0.9)
    assert found == pytest.approx(own)


def test_sets_count_the_same_whatever_their_sizes():
    """Means .4 (2 prompts) and 0 (4 prompts): .2, not the .1333 of all prompts together.

    SE^2 = 1/4 (SE_1^2 + SE_2^2) but for n/(n-1): sums of squares about the sets' means are .02 and .04, each prompt weighs
    1/(2 n_s), so SE^2 = 6/5 (.02/16 + .04/64) = .00225.
    """
    sets = [one_set([0.3, 0.5]), one_set([0.1, -0.1, 0.1, -0.1], "long")]
    found = mean_difference(sets, 0.05)
    assert found.n == 6
    assert found.estimate == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(math.sqrt(6 / 5 * (0.02 * 4 / 16 / 4 + 0.04 / 64)))
    half = float(stats.t.ppf(0.95, 4)) * math.sqrt(5 / 4) * found.standard_error  # 6 clusters, 2 sets
    assert found.ci_low == pytest.approx(0.2 - half)


def test_prompts_of_one_cluster_are_not_independent_evidence():
    pairs = [0.1, 0.1, 0.3, 0.3, 0.2, 0.2]
    alone = mean_difference([one_set(pairs)], 0.05)
    together = mean_difference([one_set(pairs, clusters=["a", "a", "b", "b", "c", "c"])], 0.05)
    assert together.ci_low < alone.ci_low
    assert together.ci_low == pytest.approx(mean_difference([one_set([0.1, 0.3, 0.2])], 0.05).ci_low)


@pytest.mark.parametrize("differences", [[], [math.nan, math.nan], [0.4]])
def test_without_scores_or_with_a_single_prompt_nothing_is_certain(differences):
    found = compare([one_set(differences)], PLAIN, PLAIN, SETTINGS, 0.05)
    assert (found.difference.ci_low, found.difference.ci_high, found.passed) == (-1.0, 1.0, False)


def test_equal_scores_everywhere_are_no_proof_of_a_difference():
    found = mean_difference([one_set([0.0] * 20)], 0.05)
    assert found.estimate == 0 and found.ci_low < 0 < found.ci_high


def test_a_spent_budget_promotes_nobody():
    assert not compare([one_set([0.4, 0.41] * 50)], PLAIN, PLAIN, SETTINGS, spend_level(3, 0.05, 0.05)).passed


def test_the_levels_of_all_looks_sum_to_the_total():
    """6/pi^2 (1 + 1/4 + 1/9 + ...) = 1; the first look gets .0304 of .05."""
    levels = [spend_level(number, 0.0, 0.05) for number in range(1, 20001)]
    assert levels[0] == pytest.approx(0.05 * 0.6079, abs=1e-5)
    assert levels[1] == pytest.approx(levels[0] / 4)
    assert 0.04999 < sum(levels) <= 0.05


def test_a_total_lowered_later_still_bounds_what_is_spent():
    assert spend_level(2, 0.06, 0.05) == 0.0
    assert spend_level(2, 0.049, 0.05) == pytest.approx(0.001)


def test_better_by_more_than_the_margin_passes_and_the_reason_has_the_numbers():
    found = compare([one_set([0.1, 0.3, 0.2, 0.4])], PLAIN, PLAIN, SETTINGS, 0.05)
    assert found.passed
    assert "difference +0.250 has the lower limit +0.098" in found.reason and "lies above the margin +0.050" in found.reason
    too_little = compare([one_set([0.1, 0.3, 0.2, 0.4])], PLAIN, PLAIN, PromotionSettings(margin=0.1), 0.05)
    assert not too_little.passed and "does not lie above" in too_little.reason


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (PLAIN._replace(mean_tokens=31.0), "length"),
        (PLAIN._replace(mean_tokens=13.0), "length"),
        (PLAIN._replace(empty=0.2), "empty"),
        (PLAIN._replace(repeated=0.2), "repeated"),
        (PLAIN._replace(copied=0.2), "copied"),
    ],
)
def test_a_guard_refuses_what_is_better_by_score_alone(texts, name):
    found = compare([one_set([0.1, 0.3, 0.2, 0.4])], texts, PLAIN, SETTINGS, 0.05)
    assert [guard.name for guard in found.guards if guard.failed] == [name]
    assert not found.passed and "lies above the margin" in found.reason and "refused: " in found.reason


def test_guards_allow_what_lies_within_their_limits():
    texts = TextShares(mean_tokens=29.0, empty=0.05, repeated=0.1, copied=0.0)
    assert compare([one_set([0.1, 0.3, 0.2, 0.4])], texts, PLAIN, SETTINGS, 0.05).passed


def test_a_sure_regression_on_one_set_refuses_and_an_unsure_one_does_not():
    good = one_set([0.4, 0.41, 0.42, 0.4] * 10)
    surely, unsure = one_set([-0.1, -0.11, -0.1, -0.09] * 10, "long"), one_set([-0.4, 0.35, -0.4, 0.35] * 2, "long")
    refused = compare([good, surely], PLAIN, PLAIN, SETTINGS, 0.05)
    assert [guard.name for guard in refused.guards if guard.failed] == ["regression on long"]
    assert not any(guard.failed for guard in compare([good, unsure], PLAIN, PLAIN, SETTINGS, 0.05).guards)


def test_verdicts_missing_on_one_side_refuse():
    scores = one_set([0.3, 0.35] * 10)
    scores.challenger[:3] = np.nan
    found = compare([scores], PLAIN, PLAIN, SETTINGS, 0.05)
    assert [(guard.name, guard.value) for guard in found.guards if guard.failed] == [("coverage", 0.85)]


def test_what_texts_are_like_is_counted_within_each_set():
    """Of 5 texts one is empty, one holds its question; 'a' is repeated within the first set only: 4 distinct of 5."""
    found = text_shares([["a", " a", ""], ["a", "why not? because"]], [["q", "r", "s"], ["t", "not?"]], [1, 2, 3, 4, 5])
    assert found == TextShares(mean_tokens=3.0, empty=0.2, repeated=pytest.approx(0.2), copied=0.2)
    with pytest.raises(ValueError, match="expected texts"):
        text_shares([[]], [[]], [])


class Year(NamedTuple):
    """What 52 challengers that are exactly as good as the champion did, each with its own luck on every prompt."""

    weekly: bool  # the weekly comparison alone promoted one
    confirmed: bool  # screening and confirmation promoted one
    every_week: bool  # the confirmation promoted one, looked at every week without any screening
    gained: float  # by how much the champion of the weekly comparison alone seems better at the end


def a_year_of_luck(rng: np.random.Generator, *, weeks: int = 52, prompts: int = 100) -> Year:
    """Scores are a loss, a tie or a win by lot, on as many prompts for screening as for confirmation."""

    def luck() -> Floats:
        return rng.integers(0, 3, 2 * prompts) / 2

    def passes(champion: Floats, challenger: Floats, part: slice, level: float) -> bool:
        return paired_difference(challenger[part], champion[part], confidence=1 - 2 * level).ci_low > 0

    screening, confirmation = slice(0, prompts), slice(prompts, None)
    first = luck()
    champions = {"weekly": first, "confirmed": first, "every_week": first}
    looks, spent = dict.fromkeys(champions, 0), dict.fromkeys(champions, 0.0)
    fooled: set[str] = set()
    for _ in range(weeks):
        challenger = luck()
        for rule, champion in champions.items():
            if rule != "every_week" and not passes(champion, challenger, screening, 0.05):
                continue
            if rule != "weekly":
                looks[rule] += 1
                level = spend_level(looks[rule], spent[rule], 0.05)
                spent[rule] += level
                if not passes(champion, challenger, confirmation, level):
                    continue
            champions[rule] = challenger
            fooled.add(rule)
    gained = float((champions["weekly"] - first)[screening].mean())
    return Year("weekly" in fooled, "confirmed" in fooled, "every_week" in fooled, gained)


def test_luck_ratchets_without_a_confirmation_and_not_with_it():
    """200 years: the weekly rule at 5 % is fooled in about half of them, many times the stated total of 5 %.

    Of 200 years with a probability of at most .05 each, more than 20 are fooled with a probability below .002.
    """
    rng = np.random.default_rng(0)
    years = [a_year_of_luck(rng) for _ in range(200)]
    assert np.mean([year.weekly for year in years]) > 0.35
    assert np.mean([year.gained for year in years if year.weekly]) > 0.1  # it seems better, and is not
    assert sum(year.confirmed for year in years) <= 20
    assert sum(year.every_week for year in years) <= 20
