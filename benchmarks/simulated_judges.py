"""Judges whose true win rate is known: where the per-prompt scores of `benchmarks.coverage` come from."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from srpo_core.scoring.win_rate import Floats

Shape = tuple[int, int]  # runs, prompts
Draw = Callable[[np.random.Generator, float, Shape], Floats]

SPREAD = 3.0  # of the logits of a judge that is nearly sure of almost every prompt
NORMAL = norm.ppf((np.arange(20_000) + 0.5) / 20_000)


def both_orders(rng: np.random.Generator, rate: float, shape: Shape) -> Floats:
    """Swap means in {0, 1/2, 1}: prompts differ in how often the candidate is preferred, and it is asked twice."""
    return (rng.random((2, *shape)) < rng.beta(5 * rate, 5 * (1 - rate), shape)).mean(axis=0)


def agreeing_orders(rng: np.random.Generator, rate: float, shape: Shape) -> Floats:
    """Both orders always agree: scores in {0, 1}."""
    return (rng.random(shape) < rate).astype(np.float64)


def unrelated_orders(rng: np.random.Generator, rate: float, shape: Shape) -> Floats:
    """All prompts are alike and the two orders are two throws of one coin."""
    return (rng.random((2, *shape)) < rate).mean(axis=0)


def probabilities(rng: np.random.Generator, rate: float, shape: Shape) -> Floats:
    """Continuous scores over the whole of [0, 1]."""
    return rng.beta(4 * rate, 4 * (1 - rate), shape)


def alike_probabilities(rng: np.random.Generator, rate: float, shape: Shape) -> Floats:
    """Continuous scores that lie close together."""
    return rng.beta(20 * rate, 20 * (1 - rate), shape)


def rare_losses(rng: np.random.Generator, rate: float, shape: Shape) -> Floats:
    """A judge nearly sure of almost every prompt (sigmoid of a normal): a few prompts hold nearly all of the variance."""
    shift = brentq(lambda by: expit(by + SPREAD * NORMAL).mean() - rate, -30, 30)
    scores: Floats = expit(shift + SPREAD * rng.standard_normal(shape))
    return scores


JUDGES: dict[str, Draw] = {
    "discrete": both_orders,
    "discrete, orders agree": agreeing_orders,
    "discrete, orders unrelated": unrelated_orders,
    "continuous": probabilities,
    "continuous, prompts alike": alike_probabilities,
}
# The worst found among some twenty kinds of scores: reported, and outside what the default interval is held to.
HARDEST: dict[str, Draw] = {"continuous, rare losses": rare_losses}
