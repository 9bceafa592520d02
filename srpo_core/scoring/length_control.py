"""Length-controlled win rates: what the win rate would be if both texts had the same length.

After AlpacaEval 2 (Dubois et al., 2404.04475): a logistic regression of the judge's score on tanh of the standardised length
difference, the prompt's difficulty where it is known, and a constant for the candidate; then the mean prediction with the
length term at zero. AlpacaEval fits difficulty over many models' games; here the fit sees one candidate's games only, so it is
refused where equal lengths would be an extrapolation or the games are too few, instead of being propped up.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from srpo_core.errors import WorkFailed
from srpo_core.scoring.resampling import cluster_draws
from srpo_core.scoring.win_rate import NO_SPREAD, Floats, t_quantile, unit_scores

NAN = float("nan")
MIN_PROMPTS = 30
MIN_OUTCOMES = 5  # wins and losses that the scores must sum to, each: below it the refits of a bootstrap have nothing to fit
CENTRAL = 0.8  # equal lengths must lie within this central share of the length differences
# As a normal prior with standard deviation 32 on every coefficient, in logits: it decides only where length separates wins from
# losses, so that the likelihood alone has no maximum, and moves other rates by less than a fiftieth of a standard error.
RIDGE = 0.001
MAX_STEPS = 100
MAX_HALVINGS = 40
TOLERANCE = 1e-16  # of twice the log-likelihood still to gain: 1e-8 standard errors of a coefficient
ROUNDING = 1e-12
CELLS_AT_A_TIME = 2**19  # of the table resamples x prompts, so that memory does not grow with their product


class LengthControlled(NamedTuple):
    """A length-controlled win rate with its interval, or the reason why there is none."""

    n: int  # prompts scored and with both lengths
    length_ratio: float  # mean candidate length / mean opponent length over those prompts; NaN without any
    win_rate: float  # in [0, 1]; NaN when refused, like the three below
    standard_error: float  # spread over resamples of the clusters, refitted each time
    ci_low: float
    ci_high: float
    refused: str | None  # a sentence


class _Games(NamedTuple):
    """The prompts that can be used."""

    scores: Floats  # (P,)
    difference: Floats  # (P,) opponent's length - candidate's length
    clusters: NDArray[np.intp]  # (P,) in 0 .. C-1
    others: Floats  # (K, P) further features, standardised: the difficulty, or none


def length_controlled_win_rate(
    scores: ArrayLike,
    lengths: ArrayLike,
    opponent_lengths: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_] | None = None,
    *,
    difficulty: ArrayLike | None = None,
    confidence: float = 0.95,
    num_resamples: int = 200,
    seed: int = 0,
) -> LengthControlled:
    """The mean predicted score at equal lengths, over prompts that have a score and both lengths.

    `scores` (P,) in [0, 1], NaN = unscored; `lengths` and `opponent_lengths` (P,) in any one unit, NaN = unknown; `clusters`
    (P,) names dependent prompts; `difficulty` (P,) is any number that is higher where the candidate should do better, known
    from elsewhere. The interval is t times the spread in logits over `num_resamples` draws of whole clusters, each refitted with
    its own standard deviation of the length differences (simulated coverage .93 to .99, where percentiles of the draws had .82 to
    .97). Raises ValueError on unequal lengths of the arrays, scores outside [0, 1] or negative lengths.
    """
    candidate, opponent, games = _usable_games(scores, lengths, opponent_lengths, clusters, difficulty)
    n, num_clusters = games.scores.size, int(games.clusters.max(initial=-1)) + 1
    ratio = float(candidate.mean() / opponent.mean()) if n and opponent.any() else NAN
    refused = _reason_to_refuse(games, num_clusters)
    if refused is not None:
        return LengthControlled(n, ratio, NAN, NAN, NAN, NAN, refused)
    fit = _fit(games, np.ones((1, n)))
    rate = float(fit.rates[0])
    rates = _resampled_rates(games, cluster_draws(num_clusters, num_resamples, seed), fit.coefficients[0])
    error = float(rates.std(ddof=1))
    half = t_quantile(confidence, num_clusters - 1) * float(_logit(rates).std(ddof=1))
    return LengthControlled(n, ratio, rate, error, float(_expit(_logit(rate) - half)), float(_expit(_logit(rate) + half)), None)


def fit_logistic(
    features: Floats, scores: Floats, weights: Floats, *, start: Floats | float = 0.0, ridge: float = RIDGE
) -> Floats:
    """Coefficients (B, D) of B weighted logistic regressions of fractional `scores` (P,) on `features` (B, D, P).

    `weights` (B, P) counts each prompt. Maximises sum_p w (s log m + (1-s) log(1-m)) - ridge/2 |coefficients|^2 by Newton's
    method from `start` (D,); a step that does not climb is halved. Raises WorkFailed when a fit does not converge.
    """
    coefficients = np.full(features.shape[:2], start, dtype=np.float64)
    going = np.arange(len(features))
    for _ in range(MAX_STEPS):
        fits = _Fits(features[going], scores, weights[going], ridge)
        step, gain = _newton_step(fits, coefficients[going])
        coefficients[going] += _climbing(fits, coefficients[going], step)
        going = going[gain > TOLERANCE]
        if going.size == 0:
            return coefficients
    raise WorkFailed(f"{going.size} of {len(features)} logistic regressions on length did not converge in {MAX_STEPS} steps")


class _Fits(NamedTuple):
    """Several regressions on the same scores."""

    features: Floats  # (B, D, P)
    scores: Floats  # (P,)
    weights: Floats  # (B, P)
    ridge: float

    def log_likelihood(self, coefficients: Floats) -> Floats:
        """Of each fit, less its ridge: (B,)."""
        logits = np.einsum("bd,bdp->bp", coefficients, self.features)
        each = self.scores * logits - np.logaddexp(0, logits)
        total: Floats = (self.weights * each).sum(axis=1) - self.ridge / 2 * (coefficients**2).sum(axis=1)
        return total


def _newton_step(fits: _Fits, coefficients: Floats) -> tuple[Floats, Floats]:
    """The full step (B, D), and twice what it would gain in log-likelihood were that quadratic (B,)."""
    x, scores, weights, ridge = fits
    predicted = _expit(np.einsum("bd,bdp->bp", coefficients, x))
    slope = np.einsum("bdp,bp->bd", x, weights * (scores - predicted)) - ridge * coefficients
    curvature = (x * (weights * predicted * (1 - predicted))[:, None, :]) @ x.transpose(0, 2, 1)
    step: Floats = np.linalg.solve(curvature + ridge * np.eye(x.shape[1]), slope[:, :, None])[:, :, 0]
    return step, (slope * step).sum(axis=1)


def _climbing(fits: _Fits, coefficients: Floats, step: Floats) -> Floats:
    """`step`, halved in each fit until the log-likelihood does not fall."""
    before = fits.log_likelihood(coefficients)
    for _ in range(MAX_HALVINGS):
        fallen = fits.log_likelihood(coefficients + step) < before - ROUNDING * np.abs(before)
        if not fallen.any():
            break
        step = np.where(fallen[:, None], step / 2, step)
    return step


class _Fit(NamedTuple):
    """The candidate as fitted for each of B ways to count the prompts."""

    coefficients: Floats  # (B, D): constant, length, further features
    rates: Floats  # (B,) mean prediction at equal length


def _fit(games: _Games, weights: Floats, start: Floats | float = 0.0) -> _Fit:
    features = np.stack([np.ones_like(weights), length_feature(games.difference, weights)], axis=1)
    others = np.broadcast_to(games.others, (len(weights), *games.others.shape))
    coefficients = fit_logistic(np.concatenate([features, others], axis=1), games.scores, weights, start=start)
    return _Fit(coefficients, rates_at_equal_length(coefficients, games.others, weights))


def rates_at_equal_length(coefficients: Floats, others: Floats, weights: Floats) -> Floats:
    """Mean predictions (B,) over prompts that `weights` (B, P) counts, by `coefficients` (B, D) of constant, length and `others`.

    AlpacaEval's prediction: `others` (D - 2, P) are further features, and the length term is zero.
    """
    predicted = _expit(coefficients[:, :1] + coefficients[:, 2:] @ others)
    return np.asarray((weights * predicted).sum(axis=1) / weights.sum(axis=1))


def length_feature(difference: Floats, weights: Floats) -> Floats:
    """tanh(difference / sd): (B, P) for `difference` (P,), its sd taken over the prompts as `weights` (B, P) counts them."""
    total = weights.sum(axis=1, keepdims=True)
    centred = difference - (weights @ difference)[:, None] / total
    spread = np.sqrt((weights * centred**2).sum(axis=1, keepdims=True) / total)
    return np.tanh(np.divide(difference, spread, out=np.zeros_like(weights), where=spread > NO_SPREAD))


def _resampled_rates(games: _Games, draws: Floats, start: Floats) -> Floats:
    rows = max(1, CELLS_AT_A_TIME // games.scores.size)
    parts = [_fit(games, draws[at : at + rows, games.clusters], start).rates for at in range(0, len(draws), rows)]
    return np.concatenate(parts)


def _usable_games(
    scores: ArrayLike,
    lengths: ArrayLike,
    opponent_lengths: ArrayLike,
    clusters: Sequence[str] | NDArray[np.str_] | None,
    difficulty: ArrayLike | None,
) -> tuple[Floats, Floats, _Games]:
    given = [scores, lengths, opponent_lengths, *([] if difficulty is None else [difficulty])]
    arrays = [np.asarray(one, dtype=np.float64) for one in given]
    names = np.arange(arrays[0].size) if clusters is None else np.asarray(clusters)
    if any(one.shape != (arrays[0].size,) for one in [*arrays, names]):
        raise ValueError(f"expected one value a prompt everywhere, found shapes {[one.shape for one in [*arrays, names]]}")
    unit_scores(arrays[0])
    both = np.concatenate(arrays[1:3])
    wrong = (both < 0) | np.isinf(both)
    if wrong.any():
        raise ValueError(f"expected lengths of 0 or more, found {both[wrong][0]:g}")
    used = ~np.isnan(sum(arrays))
    scored, candidate, opponent, *others = (one[used] for one in arrays)
    index = np.unique(names[used], return_inverse=True)[1]
    features = np.array([_standardised(one) for one in others]).reshape(len(others), scored.size)
    return candidate, opponent, _Games(scored, opponent - candidate, index, features)


def _standardised(values: Floats) -> Floats:
    centred = values - values.mean() if values.size else values
    spread = float(centred.std()) if values.size else 0.0
    return centred / spread if spread > NO_SPREAD else np.zeros_like(values)


def _reason_to_refuse(games: _Games, num_clusters: int) -> str | None:
    """The sentence that stands in place of a number; None when the fit can be trusted."""
    if num_clusters < MIN_PROMPTS:
        scored = games.scores.size
        counted = "scored prompts" if num_clusters == scored else "clusters of scored prompts"
        found = str(num_clusters) if num_clusters == scored else f"{num_clusters} of {scored} prompts"
        return f"expected at least {MIN_PROMPTS} {counted} with lengths to fit the effect of length, found {found}"
    if np.ptp(games.scores) < NO_SPREAD:
        return f"expected scores that differ between prompts to fit the effect of length, found {games.scores[0]:g} on every one"
    wins, losses = float(games.scores.sum()), float((1 - games.scores).sum())
    if min(wins, losses) < MIN_OUTCOMES:
        return (
            f"expected scores that amount to at least {MIN_OUTCOMES} wins and {MIN_OUTCOMES} losses to fit the effect of length, "
            f"found {wins:g} and {losses:g}"
        )
    low, high = np.quantile(games.difference, [(1 - CENTRAL) / 2, (1 + CENTRAL) / 2])
    if high - low < NO_SPREAD:
        return "expected lengths that differ by more on some prompts than on others, found one difference on nearly all of them"
    if low > 0 or high < 0:
        shorter = "shorter" if low > 0 else "longer"
        return (
            f"expected prompts on both sides of equal length, found the candidate {shorter} on more than "
            f"{(1 + CENTRAL) / 2:.0%} of them: a win rate at equal length would be an extrapolation"
        )
    return None


def _expit(values: Any) -> Any:
    from scipy.special import expit  # here, because importing it takes long, which every flow would pay

    return expit(values)


def _logit(values: Any) -> Any:
    from scipy.special import logit

    return logit(values)
