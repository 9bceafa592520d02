"""How many prompts a difference needs, and which difference a number of prompts can show.

For the two-sided t test of a mean of per-prompt values: a win rate against one half, or a paired difference between two
revisions or methods. statsmodels' `TTestPower` computes the same from the lower tail of the noncentral t, which is NaN for
clear differences; both tails are taken as upper ones here.
"""

import math

from srpo_core.errors import InputError

MOST_PROMPTS = 2**40  # beyond it the noncentral t has no digits left


def prompts_needed(delta: float, standard_deviation: float, *, level: float = 0.05, power: float = 0.8) -> int:
    """The fewest prompts whose t test at `level` sees a mean `delta` away from the null with probability `power`.

    `delta` in (0, .5] (a win rate of .55 is a delta of .05), `standard_deviation` of the per-prompt values. Raises InputError.
    """
    if not 0 < delta <= 0.5:
        raise InputError(f"expected a difference above 0 and at most .5, found {delta}; a win rate of .55 is a difference of .05")
    _check(standard_deviation, level, power)
    effect = delta / standard_deviation
    low, high = 1, 2
    while achieved_power(high, effect, level=level) < power:
        low, high = high, 2 * high
        if high > MOST_PROMPTS:
            raise InputError(f"expected a difference that some number of prompts can show, found {delta}; ask for a larger one")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if achieved_power(middle, effect, level=level) >= power else (middle, high)
    return high


def detectable_difference(n: int, standard_deviation: float, *, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference that `n` prompts show at `level` with probability `power`.

    Above .5 for a win rate, or 1 for a paired difference, it cannot occur: so few prompts show nothing. Raises InputError.
    """
    if n < 2:
        raise InputError(f"expected at least 2 prompts, found {n}: one has no spread to test with")
    _check(standard_deviation, level, power)

    def lacking(effect: float) -> float:
        return achieved_power(n, effect, level=level) - power

    from scipy import optimize  # here, because importing it takes half a second, which every flow would pay

    if lacking(0.0) >= 0:
        raise InputError(f"expected a power above the level of {level}, found {power}; .8 is usual")
    high = 1.0
    while lacking(high) < 0:
        high *= 2
    return float(optimize.brentq(lacking, 0.0, high, xtol=1e-12) * standard_deviation)


def achieved_power(n: int, effect: float, *, level: float = 0.05) -> float:
    """Probability that the two-sided t test at `level` on `n` prompts rejects, the true mean `effect` deviations away."""
    from scipy import stats  # here, because importing it takes half a second, which every flow would pay

    quantile, shift = stats.t.ppf(1 - level / 2, n - 1), effect * math.sqrt(n)
    return float(stats.nct.sf(quantile, n - 1, shift) + stats.nct.sf(quantile, n - 1, -shift))


def _check(standard_deviation: float, level: float, power: float) -> None:
    if not (0 < standard_deviation and math.isfinite(standard_deviation)):
        raise InputError(f"expected a deviation above 0, found {standard_deviation}: without spread one prompt is enough")
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, found {level}; .05 is usual")
    if not 0 < power < 1:
        raise InputError(f"expected a power between 0 and 1, found {power}; .8 is usual")
    if level >= power:
        raise InputError(f"expected a level below the power of {power}, found a level of {level}; .05 is usual")
