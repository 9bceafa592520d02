"""The two identities behind SRPO, on random tabular problems in float64: closed-form optimum, (A), (B), and both losses at zero.

With y in a finite set, p any matrix with p + p^T = 1 (no Bradley-Terry structure), and references of full support,
    pi'(b|a) = ref'(b|a) exp(p(b over a)/beta) / Z(a)        pi(a) ~ ref(a) / Z(a)
    (A)  p(b over a) = 1/2 + beta [F(b|a) - F(a|a)]
    (B)  p(b over a) = 1/2 + beta/2 [G(b) - G(a) + F(b|a) - F(a|b)]
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from srpo_core.losses import PairLogps, log_ratios, pair_metrics, srpo_loss

NUM_COMPLETIONS = 7


class Problem(NamedTuple):
    preference: np.ndarray  # (n, n), [a, b] = p(a over b)
    beta: float
    ref_drafts: np.ndarray  # (n,), log-probs
    ref_revisions: np.ndarray  # (n, n), [draft, revision], log-probs
    drafts: np.ndarray  # the same of the optimum
    revisions: np.ndarray


def log_normalise(scores: np.ndarray) -> np.ndarray:
    return scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)


def random_problem(seed: int, beta: float) -> Problem:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.uniform(size=(NUM_COMPLETIONS, NUM_COMPLETIONS)), 1)
    preference = upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(NUM_COMPLETIONS)
    ref_drafts = log_normalise(rng.normal(size=NUM_COMPLETIONS))
    ref_revisions = log_normalise(2 * rng.normal(size=(NUM_COMPLETIONS, NUM_COMPLETIONS)))
    tilted = ref_revisions + preference.T / beta  # [a, b] = log ref'(b|a) + p(b over a) / beta
    log_z = np.logaddexp.reduce(tilted, axis=1)
    return Problem(preference, beta, ref_drafts, ref_revisions, log_normalise(ref_drafts - log_z), tilted - log_z[:, None])


def problem_logps(drafts: np.ndarray, revisions: np.ndarray) -> PairLogps:
    """All ordered pairs (w, l) of distinct completions as one batch."""
    w, ell = np.nonzero(~np.eye(NUM_COMPLETIONS, dtype=bool))
    columns = drafts[w], drafts[ell], revisions[ell, w], revisions[ell, ell], revisions[w, w], revisions[w, ell]
    return PairLogps(*(torch.from_numpy(column) for column in columns))


def all_preferences(problem: Problem) -> torch.Tensor:
    return torch.from_numpy(problem.preference[~np.eye(NUM_COMPLETIONS, dtype=bool)])


PROBLEMS = [random_problem(seed, beta) for seed, beta in [(0, 1.0), (1, 0.3), (2, 0.1), (3, 0.05)]]
each_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: f"beta={problem.beta}")


def objective(problem: Problem, drafts: np.ndarray, revisions: np.ndarray) -> float:
    """J: expected preference of the revision over the draft, minus the reviser's and plus the drafter's divergence."""
    value = np.exp(revisions) * (problem.preference.T - problem.beta * (revisions - problem.ref_revisions))
    return float(np.exp(drafts) @ (value.sum(axis=1) + problem.beta * (drafts - problem.ref_drafts)))


@each_problem
def test_the_closed_form_is_the_saddle_point_of_the_objective(problem: Problem) -> None:
    """The reviser cannot raise J, and the drafter (whose J already holds the best reviser) cannot lower it."""
    best, rng = objective(problem, problem.drafts, problem.revisions), np.random.default_rng(9)
    for scale in (0.01, 0.3, 3.0):
        other_revisions = log_normalise(problem.revisions + scale * rng.normal(size=problem.revisions.shape))
        other_drafts = log_normalise(problem.drafts + scale * rng.normal(size=problem.drafts.shape))
        assert objective(problem, problem.drafts, other_revisions) < best
        assert objective(problem, other_drafts, problem.revisions) > best


@each_problem
def test_identity_a_holds_at_the_optimum(problem: Problem) -> None:
    f = problem.revisions - problem.ref_revisions  # [a, b] = F(b|a)
    recovered = 0.5 + problem.beta * (f - np.diag(f)[:, None])
    np.testing.assert_allclose(recovered, problem.preference.T, rtol=0, atol=1e-12)


@each_problem
def test_identity_b_holds_at_the_optimum(problem: Problem) -> None:
    g, f = problem.drafts - problem.ref_drafts, problem.revisions - problem.ref_revisions
    recovered = 0.5 + problem.beta / 2 * (g[None, :] - g[:, None] + f - f.T)
    np.testing.assert_allclose(recovered, problem.preference.T, rtol=0, atol=1e-12)


@each_problem
def test_copying_a_draft_is_as_likely_as_writing_it_up_to_a_constant(problem: Problem) -> None:
    """G(y) = F(y|y) + const; the constant is irrelevant, so it is taken out by the mean."""
    difference = (problem.drafts - problem.ref_drafts) - np.diag(problem.revisions - problem.ref_revisions)
    np.testing.assert_allclose(difference, difference.mean(), rtol=0, atol=1e-12)


@each_problem
def test_exchange_identity_holds_at_the_optimum(problem: Problem) -> None:
    f = problem.revisions - problem.ref_revisions
    np.testing.assert_allclose(f + f.T, np.diag(f)[:, None] + np.diag(f)[None, :], rtol=0, atol=1e-12)


@each_problem
def test_both_losses_and_the_consistency_gap_vanish_at_the_optimum(problem: Problem) -> None:
    policy = problem_logps(problem.drafts, problem.revisions)
    ratios = log_ratios(policy, problem_logps(problem.ref_drafts, problem.ref_revisions))
    result = srpo_loss(ratios, all_preferences(problem), alpha=2 / 3, beta=problem.beta)
    for part in result:
        assert part is not None
        np.testing.assert_allclose(part, 0, atol=1e-24)
    np.testing.assert_allclose(pair_metrics(ratios, all_preferences(problem))["consistency_gap"], 0, atol=1e-12)


@each_problem
def test_the_loss_is_positive_away_from_the_optimum(problem: Problem) -> None:
    """Either role alone being off is seen, so the minimiser is unique."""
    rng = np.random.default_rng(4)
    reference = problem_logps(problem.ref_drafts, problem.ref_revisions)
    other_drafts = log_normalise(problem.drafts + 0.1 * rng.normal(size=problem.drafts.shape))
    other_revisions = log_normalise(problem.revisions + 0.1 * rng.normal(size=problem.revisions.shape))
    for drafts, revisions in ((other_drafts, problem.revisions), (problem.drafts, other_revisions)):
        ratios = log_ratios(problem_logps(drafts, revisions), reference)
        assert srpo_loss(ratios, all_preferences(problem), alpha=2 / 3, beta=problem.beta).loss.mean() > 1e-7


@each_problem
def test_the_optimum_tilts_the_reference_by_at_most_one_over_beta_nats(problem: Problem) -> None:
    f = problem.revisions - problem.ref_revisions
    assert (f.max(axis=1) - f.min(axis=1)).max() <= 1 / problem.beta
