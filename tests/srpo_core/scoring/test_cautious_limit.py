"""The cautious limit: exact where exact limits are known, by simulation, and never wrong too often for skewed values."""

from functools import cache

import numpy as np
import pytest
from scipy import stats

from srpo_core.scoring.cautious_limit import cautious_lower_limit
from srpo_core.scoring.promotion import SetScores, mean_difference, spend_level
from srpo_core.scoring.win_rate import Floats

TENTH = spend_level(10, 0.0, 0.05)  # .0003
FIRST = spend_level(1, 0.0, 0.05)


def limit(values: list[float] | Floats, level: float, worst: float = -1.0) -> float:
    return cautious_lower_limit([np.array(values)], [[str(n) for n in range(len(values))]], [worst], level)


@pytest.mark.parametrize(("wins", "of", "level"), [(90, 100, 0.03), (60, 100, 0.05), (197, 200, 0.03)])
def test_for_wins_and_losses_it_is_nearly_clopper_and_pearsons_exact_limit(wins, of, level):
    exact = 2 * stats.beta.ppf(level, wins, of - wins + 1) - 1
    found = limit([1.0] * wins + [-1.0] * (of - wins), level)
    assert exact - 0.01 < found <= exact


def test_it_is_the_quantile_of_randomly_weighted_means_with_one_more_loss():
    """A million draws of exponential weights for .5 (40 times), -.25 (20 times) and the unseen -1; mean 14/61."""
    values = np.array([0.5] * 40 + [-0.25] * 20 + [-1.0])
    rng = np.random.default_rng(0)
    deviations = (values - 14 / 61) / 61
    weights = [rng.gamma(shape, size=10**6) - shape for shape in (40, 20, 1)]
    drawn = 14 / 61 + sum(weight * deviations[place] for weight, place in zip(weights, (0, 40, 60), strict=True))
    for level in (0.05, 0.001):
        assert limit(values[:-1], level) == pytest.approx(float(np.quantile(drawn, level)), abs=0.003)


def test_without_spread_it_is_the_share_that_may_remain_unseen():
    """Of 100 equal prompts 1 - .03^(1/100) = 3.4 % may be losses unseen: .05 - 1.05 * .0345 = .0138."""
    unseen = 1 - 0.03 ** (1 / 100)
    assert limit([0.05] * 100, 0.03) == pytest.approx(0.05 - 1.05 * unseen, abs=5e-4)
    assert limit([0.05] * 100, 0.03, worst=-0.5) == pytest.approx(0.05 - 0.55 * unseen, abs=5e-4)
    assert limit([-1.0] * 5, 0.03) == -1.0


def test_prompts_of_one_cluster_are_not_independent_evidence():
    values, pairs = np.array([0.1, 0.1, 0.4, 0.4, 0.2, 0.2]), ["a", "a", "b", "b", "c", "c"]
    together = cautious_lower_limit([values], [pairs], [-1.0], 0.05)
    assert together == pytest.approx(limit([0.1, 0.4, 0.2], 0.05))
    assert together < limit(values, 0.05)


def test_every_set_has_unseen_losses_of_its_own():
    """Two wins of two tell little about their set, whatever two hundred others tell about theirs."""
    sets = [np.ones(2), np.ones(200)]
    found = cautious_lower_limit(sets, [["a", "b"], [f"c{n}" for n in range(200)]], [-1.0, -1.0], 0.03)
    assert found < 0.1 < 0.9 < limit(np.ones(200), 0.03)


def test_a_set_without_a_value_has_no_limit():
    with pytest.raises(ValueError, match="expected a value in every set"):
        limit([float("nan")], 0.05)


@cache
def lower(losses: int, prompts: int, gain: float, loss: float, level: float, sets: int = 1) -> float:
    """The limit by which promotions are decided, of `losses` prompts at minus `loss` and all others at `gain`, in each set."""
    differences = np.array([-loss] * losses + [gain] * (prompts - losses))
    champion = np.where(differences > 0, 0.0, 1.0)
    names = [str(number) for number in range(prompts)]
    return mean_difference([SetScores(f"set {n}", champion + differences, champion, names) for n in range(sets)], level).ci_low


def false_passes(share: float, loss: float, margin: float, prompts: int, level: float, sets: int = 1) -> float:
    """Probability, exactly, that a challenger passes whose true difference is the margin: a rare loss, a gain elsewhere."""
    gain = (margin + share * loss) / (1 - share)
    few = range(int(stats.binom.ppf(0.5, prompts, share)) + 1)  # with more losses the mean lies below the margin
    passing = [lower(losses, prompts, gain, loss, level, sets) > margin for losses in few]
    return float(np.sum(stats.binom.pmf(few, prompts, share) * passing))


@pytest.mark.parametrize("level", [FIRST, TENTH])
@pytest.mark.parametrize("prompts", [5, 20, 40, 100, 200])
def test_a_challenger_that_is_no_better_passes_at_most_at_the_level_also_with_rare_great_losses(prompts, level):
    """At the very border, margin .01. By the t limit alone up to 99 % pass, most of all where no loss is among the prompts."""
    worst = max(
        false_passes(share, loss, 0.01, prompts, level)
        for share in (0.01, 0.03, 0.05, 0.1, 0.2, 0.3)
        for loss in (0.5, 0.95, 1.0)
    )
    assert worst <= level


@pytest.mark.parametrize("level", [0.05, FIRST, TENTH])
def test_the_same_prompts_in_several_sets_are_no_more_evidence_than_in_one(level):
    """Such as those of two opponents: what is lost unseen is lost in all. With an unseen cluster each, 5 sets pass 8.3 % at 5."""
    for sets in (2, 5):
        assert lower(2, 50, 0.05, 1.0, level, sets) == pytest.approx(lower(2, 50, 0.05, 1.0, level), abs=1e-9)
        assert max(false_passes(share, 1.0, 0.01, 50, level, sets) for share in (0.03, 0.05, 0.1, 0.2)) <= level


def test_in_a_simulation_with_ties_and_two_sets_of_unequal_size_false_passes_stay_below_the_level():
    """Scores .05 up, much down, or a tie, mean 0; 400 experiments: more than 24 passes have a probability below .001 at 3 %."""
    rng = np.random.default_rng(1)
    passes = 0
    for _ in range(400):
        sets = []
        for name, size in (("small", 30), ("large", 90)):
            values = rng.choice([0.06, 0.0, -0.9], size, p=[0.75, 0.2, 0.05])
            champion = np.where(values < 0, 0.95, 0.5)
            sets.append(SetScores(name, champion + values, champion, [f"{name}{n}" for n in range(size)]))
        passes += mean_difference(sets, FIRST).ci_low > 0
    assert passes <= 24
