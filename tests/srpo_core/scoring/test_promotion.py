"""Promotion: the numbers by hand, the guards, and by simulation that luck does not ratchet."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from srpo_core.scoring.promotion import Comparison, SetScores, TextShares, compare, mean_difference, spend_level, text_shares
from srpo_core.scoring.win_rate import Floats, paired_difference
from srpo_core.settings.retraining import PromotionSettings

SETTINGS = PromotionSettings(margin=0.05, min_clusters=2)
GOOD = [0.1, 0.3, 0.2, 0.4] * 25
PLAIN = TextShares(mean_tokens=20.0, empty=0.0, repeated=0.0, copied=0.0)


def one_set(differences: list[float], name: str = "id", clusters: list[str] | None = None) -> SetScores:
    """A set in which the champion scores one half everywhere."""
    values = np.array(differences) + 0.5
    return SetScores(name, values, np.full(len(values), 0.5), clusters or [f"{name}-{i}" for i in range(len(values))])


def compared(
    *sets: SetScores, texts: TextShares = PLAIN, settings: PromotionSettings = SETTINGS, level: float = 0.05
) -> Comparison:
    """The challenger's `texts` are the same on every set, the champion's are plain."""
    return compare(sets, [texts] * len(sets), [PLAIN] * len(sets), settings, level)


def test_of_one_set_the_upper_limit_is_mean_plus_t_times_standard_error():
    """d = .1 .3 .2 .4: mean .25, variance .05/3, SE = sqrt(.05/3/4) = .0645; t(.95, 3) = 2.3534; upper = .25 + .1519."""
    found = mean_difference([one_set([0.1, 0.3, 0.2, 0.4])], 0.05)
    assert found.estimate == pytest.approx(0.25)
    assert found.standard_error == pytest.approx(0.06455, abs=1e-5)
    assert found.ci_high == pytest.approx(0.25 + 2.35336 * 0.06455, abs=1e-4)
    own = paired_difference(one_set([0.1, 0.3, 0.2, 0.4]).challenger, np.full(4, 0.5), confidence=0.9)
    assert found._replace(ci_low=own.ci_low) == pytest.approx(own)


def test_where_wide_spread_is_seen_the_lower_limit_is_the_t_limit():
    """All values are -1 or 1, so that one more loss among 400 changes less than t does to the normal quantile."""
    values = one_set([0.5, 0.5, 0.5, -0.5] * 100)
    found, own = mean_difference([values], 0.4), paired_difference(values.challenger, values.champion, confidence=0.2)
    assert found.ci_low == pytest.approx(own.ci_low, abs=0.005)


def test_a_few_good_prompts_are_no_proof():
    """Three wins of three, and nearly so: t has no spread to go by or hardly any, and says .92."""
    for wins in ([0.5, 0.5, 0.5], [0.45, 0.5, 0.5]):
        assert mean_difference([one_set(wins)], 0.05).ci_low < 0
    small, large = one_set([0.5, 0.5], "small"), one_set([0.45, 0.5] * 100, "large")
    assert mean_difference([large], 0.03).ci_low > 0.4
    assert mean_difference([small, large], 0.03).ci_low < 0.1


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
    assert found.ci_high == pytest.approx(0.2 + half)


def test_prompts_of_one_cluster_are_not_independent_evidence():
    pairs = [0.1, 0.1, 0.3, 0.3, 0.2, 0.2]
    alone = mean_difference([one_set(pairs)], 0.05)
    together = mean_difference([one_set(pairs, clusters=["a", "a", "b", "b", "c", "c"])], 0.05)
    assert together.ci_low < alone.ci_low
    assert together.ci_low == pytest.approx(mean_difference([one_set([0.1, 0.3, 0.2])], 0.05).ci_low)


@pytest.mark.parametrize("differences", [[], [math.nan, math.nan], [0.4]])
def test_without_scores_or_with_a_single_prompt_nothing_is_certain(differences):
    found = compared(one_set(differences))
    assert (found.difference.ci_low, found.difference.ci_high, found.passed) == (-1.0, 1.0, False)


def test_equal_scores_everywhere_are_no_proof_of_a_difference():
    found = mean_difference([one_set([0.0] * 20)], 0.05)
    assert found.estimate == 0 and found.ci_low < 0 < found.ci_high


def test_a_spent_budget_promotes_nobody():
    assert not compared(one_set([0.4, 0.41] * 50), level=spend_level(3, 0.05, 0.05)).passed


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
    found = compared(one_set(GOOD))
    assert found.passed
    limit = f"difference +0.250 has the lower limit {found.difference.ci_low:+.3f} (one-sided error 0.05)"
    assert limit in found.reason and "lies above the margin +0.050" in found.reason
    too_little = compared(one_set(GOOD), settings=PromotionSettings(margin=0.24))
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
def test_a_guard_refuses_what_is_better_by_score_alone_on_any_set(texts, name):
    """Over both sets together each of these would be within its limit."""
    sets = [one_set(GOOD), one_set(GOOD, "long")]
    found = compare(sets, [PLAIN, texts], [PLAIN, PLAIN], SETTINGS, 0.05)
    assert [guard.name for guard in found.guards if guard.failed] == [f"{name} on long"]
    assert not found.passed and "lies above the margin" in found.reason and "refused: on long" in found.reason


def test_guards_allow_what_lies_within_their_limits():
    texts = TextShares(mean_tokens=29.0, empty=0.05, repeated=0.1, copied=0.0)
    assert compared(one_set(GOOD), texts=texts).passed


def test_a_set_of_few_clusters_refuses_however_many_prompts_it_has():
    asked, clusters = PromotionSettings(min_clusters=30), [f"c{n // 10}" for n in range(290)]
    few = one_set([0.4, 0.41] * 145, "few", clusters)
    found = compared(one_set(GOOD), few, settings=asked)
    (failed,) = [guard for guard in found.guards if guard.failed]
    assert (failed.name, failed.value, found.passed) == ("clusters", 29, False)
    assert "few has 29 clusters of prompts scored for both, fewer than 30" in found.reason
    assert compared(one_set(GOOD), few, settings=PromotionSettings(min_clusters=29)).passed


def test_a_sure_regression_on_one_set_refuses_and_an_unsure_one_does_not():
    good = one_set([0.4, 0.41, 0.42, 0.4] * 10)
    surely, unsure = one_set([-0.1, -0.11, -0.1, -0.09] * 10, "long"), one_set([-0.4, 0.35, -0.4, 0.35] * 2, "long")
    refused = compared(good, surely)
    assert [guard.name for guard in refused.guards if guard.failed] == ["regression on long"]
    assert not any(guard.failed for guard in compared(good, unsure).guards)


def test_verdicts_missing_on_one_side_refuse():
    scores = one_set([0.3, 0.35] * 10)
    scores.challenger[:3] = np.nan
    found = compared(scores)
    assert [(guard.name, guard.value) for guard in found.guards if guard.failed] == [("coverage", 0.85)]


def test_what_texts_are_like_is_counted():
    """Of 5 texts one is empty, one holds its question, and 'a' stands there twice: 4 distinct of 5."""
    found = text_shares(["a", " a", "", "b", "why not? because"], ["q", "r", "s", "t", "not?"], [1, 2, 3, 4, 5])
    assert found == TextShares(mean_tokens=3.0, empty=0.2, repeated=pytest.approx(0.2), copied=0.2)
    with pytest.raises(ValueError, match="expected texts"):
        text_shares([], [], [])


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
        if paired_difference(challenger[part], champion[part], confidence=1 - 2 * level).ci_low <= 0:
            return False  # the cautious limit is never above the t limit, and takes longer
        scores = SetScores("id", challenger[part], champion[part], names)
        return mean_difference([scores], level).ci_low > 0

    names = [str(number) for number in range(prompts)]
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
    """200 years: the weekly rule at 5 % is fooled in more than a third of them, many times the stated total of 5 %.

    Of 200 years with a probability of at most .05 each, more than 20 are fooled with a probability below .002.
    """
    rng = np.random.default_rng(0)
    years = [a_year_of_luck(rng) for _ in range(200)]
    assert np.mean([year.weekly for year in years]) > 0.25
    assert np.mean([year.gained for year in years if year.weekly]) > 0.1  # it seems better, and is not
    assert sum(year.confirmed for year in years) <= 20
    assert sum(year.every_week for year in years) <= 20


def test_the_most_a_prompt_can_lose_is_one_against_gold_and_half_head_to_head():
    """With hardly any spread the limit is mean - (mean - worst) * (-log level) / C, nearly."""
    values = one_set([0.19, 0.21] * 50)
    for head_to_head, worst in ((False, -1.0), (True, -0.5)):
        found = mean_difference([values._replace(head_to_head=head_to_head)], 0.05)
        assert found.ci_low == pytest.approx(0.2 - (0.2 - worst) * -math.log(0.05) / 100, abs=0.002)


def test_beside_a_champion_without_a_token_the_length_is_unknown_and_refuses():
    found = compare([one_set(GOOD)], [PLAIN], [PLAIN._replace(mean_tokens=0.0)], SETTINGS, 0.05)
    assert ([guard.name for guard in found.guards if guard.failed], found.passed) == (["length on id"], False)
