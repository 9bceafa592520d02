"""Losses against hand-derived numbers, an independent numpy version, numerical gradients, and properties of the equations."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.nn.functional import logsigmoid

from srpo_core.losses import (
    LOSSES,
    REQUIRED_LOGPS,
    DraftLogps,
    PairLogps,
    dpo_both_loss,
    dpo_loss,
    ipo_both_loss,
    ipo_loss,
    log_ratios,
    logps_from_columns,
    loss_scale_factor,
    mean_logps,
    pair_metrics,
    sft_loss,
    srpo_loss,
)
from srpo_core.settings.training import PREFERENCE_METHODS

METHODS = tuple(LOSSES)
ALPHA, BETA = 0.6, 0.1


def pairs(*columns: list[float], dtype: torch.dtype = torch.float64) -> PairLogps:
    return PairLogps(*(torch.tensor(column, dtype=dtype) for column in columns))


def tensor(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def swap_roles(ratios: PairLogps) -> PairLogps:
    """What was chosen is rejected and the other way round."""
    chosen, rejected, chosen_l, rejected_l, chosen_w, rejected_w = ratios
    return PairLogps(rejected, chosen, rejected_w, chosen_w, rejected_l, chosen_l)


def numpy_losses(columns: np.ndarray, p: np.ndarray, alpha: float, beta: float) -> dict[str, np.ndarray]:
    """From the equations of the papers, pair by pair in scalars; columns (B, 6): G(w) G(l) F(w|l) F(l|l) F(w|w) F(l|w)."""
    losses: dict[str, list[float]] = {method: [] for method in METHODS}
    for (g_w, g_l, f_wl, f_ll, f_ww, f_lw), p_i in zip(columns, p, strict=True):

        def dpo(win: float, lose: float, p_i: float = p_i) -> float:
            # -p log(1 / (1 + e^-z)) - (1 - p) log(1 / (1 + e^z))
            z = beta * (win - lose)
            return p_i * np.logaddexp(0, -z) + (1 - p_i) * np.logaddexp(0, z)

        def ipo(win: float, lose: float, p_i: float = p_i) -> float:
            return (win - lose - (p_i - 0.5) / beta) ** 2

        generative = (p_i - 0.5 - beta / 2 * (g_w - g_l + f_wl - f_lw)) ** 2
        draft_is_loser = (p_i - 0.5 - beta * (f_wl - f_ll)) ** 2
        # (A) with the roles exchanged: y1 = w, y2 = l and p(l over w) = 1 - p
        draft_is_winner = ((1 - p_i) - 0.5 - beta * (f_lw - f_ww)) ** 2
        losses["srpo"].append((1 - alpha) * generative + alpha * (draft_is_loser + draft_is_winner) / 2)
        losses["dpo"].append(dpo(g_w, g_l))
        losses["ipo"].append(ipo(g_w, g_l))
        losses["dpo_both"].append(dpo(g_w, g_l) / 2 + dpo(f_wl, f_ll) / 4 + dpo(f_ww, f_lw) / 4)
        losses["ipo_both"].append(ipo(g_w, g_l) / 2 + ipo(f_wl, f_ll) / 4 + ipo(f_ww, f_lw) / 4)
    return {method: np.array(values) for method, values in losses.items()}


batches = st.integers(1, 5).flatmap(
    lambda size: st.tuples(
        arrays(np.float64, (size, 6), elements=st.floats(-60, 60, width=32)),
        arrays(np.float64, size, elements=st.floats(0, 1, width=32)),
        st.floats(0.01, 0.99),
        st.floats(0.01, 2),
    )
)


# --- hand-derived numbers -------------------------------------------------------------------------------------------------


def test_srpo_on_a_pair_worked_by_hand() -> None:
    """beta .1, p .9, G(w) 3, G(l) 1, F(w|l) 2, F(l|l) -1, F(w|w) 4, F(l|w) -2; target p - 1/2 = .4.

    D_gen = 3 - 1 + 2 + 2 = 6:  L = (.4 - .05 * 6)^2 = .01
    D_l = 2 + 1 = 3:            (.4 - .3)^2 = .01      D_w = 4 + 2 = 6: (.4 - .6)^2 = .04      L' = .025
    alpha 2/3:                  loss = .01 / 3 + .05 / 3 = .02
    """
    result = srpo_loss(pairs([3], [1], [2], [-1], [4], [-2]), tensor(0.9), alpha=2 / 3, beta=0.1)
    assert result.generative_loss.item() == pytest.approx(0.01, abs=1e-15)
    assert result.self_improvement_loss is not None
    assert result.self_improvement_loss.item() == pytest.approx(0.025, abs=1e-15)
    assert result.loss.item() == pytest.approx(0.02, abs=1e-15)


def test_srpo_is_zero_at_the_optimum_of_a_hard_label() -> None:
    """beta .01, p = 1: D_l = D_w = .5 / .01 = 50 nats and D_gen = .5 / .005 = 100 nats, here as G(w) - G(l) = 40 plus 30 + 30."""
    ratios = pairs([25], [-15], [30], [-20], [20], [-30])
    metrics = pair_metrics(ratios, tensor(1.0))
    assert metrics["d_gen"].item() == 100
    assert metrics["self_improvement_given_rejected_margin"].item() == 50
    assert metrics["self_improvement_given_chosen_margin"].item() == 50
    assert srpo_loss(ratios, tensor(1.0), alpha=2 / 3, beta=0.01).loss.item() == pytest.approx(0, abs=1e-30)


def test_dpo_on_pairs_worked_by_hand() -> None:
    """beta .1, margin 10 ln 3, so sigmoid(beta d) = 3/4: hard label -ln(3/4); p = .6: -.6 ln(3/4) - .4 ln(1/4)."""
    margin = 10 * math.log(3)
    ratios = DraftLogps(tensor(margin, margin), tensor(0.0, 0.0))
    expected = [math.log(4 / 3), 0.6 * math.log(4 / 3) + 0.4 * math.log(4)]
    np.testing.assert_allclose(dpo_loss(ratios, tensor(1.0, 0.6), beta=0.1).loss, expected, rtol=1e-14)


def test_ipo_on_pairs_worked_by_hand() -> None:
    """beta .1, margin 3: hard label (3 - 1/.2)^2 = 4; p = .6: (3 - .1/.1)^2 = 4; p = .5: 3^2 = 9."""
    ratios = DraftLogps(tensor(2.0, 2.0, 2.0), tensor(-1.0, -1.0, -1.0))
    np.testing.assert_allclose(ipo_loss(ratios, tensor(1.0, 0.6, 0.5), beta=0.1).loss, [4, 4, 9], rtol=1e-12)


def test_losses_on_both_prompts_weigh_drafts_half_and_each_revision_a_quarter() -> None:
    """IPO, beta .1, p = 1, target 5: drafts d = 2 -> 9, D_l = 3 -> 4, D_w = 6 -> 1: 9/2 + 4/4 + 1/4 = 5.75; parts 9 and 2.5."""
    result = ipo_both_loss(pairs([3], [1], [2], [-1], [4], [-2]), tensor(1.0), beta=0.1)
    assert (result.loss.item(), result.generative_loss.item()) == pytest.approx((5.75, 9))
    assert result.self_improvement_loss is not None
    assert result.self_improvement_loss.item() == pytest.approx(2.5)


def test_sft_is_the_mean_over_tokens_not_over_completions() -> None:
    """Sums -6 over 2 tokens and -4 over 8: (6 + 4) / 10 = 1; the mean of the completions' means would be (3 + .5) / 2 = 1.75."""
    assert sft_loss(tensor(-6.0, -4.0), torch.tensor([2, 8])).item() == pytest.approx(1)


def test_mean_logps_divide_by_the_tokens_of_the_completion_not_of_the_draft() -> None:
    """chosen has 2 tokens, rejected 5: w, w|l and w|w are halved; l, l|l and l|w are divided by five."""
    ten = [10.0]
    num_tokens = torch.tensor([2]), torch.tensor([5])
    six = mean_logps(pairs(ten, ten, ten, ten, ten, ten), *num_tokens)
    two = mean_logps(DraftLogps(tensor(10.0), tensor(10.0)), *num_tokens)
    assert [value.item() for value in six] == [5, 2, 5, 2, 5, 2]
    assert [value.item() for value in two] == [5, 2]


def test_alpha_of_the_public_code_is_two_thirds_in_this_convention() -> None:
    """(1-a)(beta D_gen - 1)^2 + a[(1/2 - beta D_l)^2 + (1/2 - beta D_w)^2] at p = 1 is 4(1-a) L + 2a L'.

    With a = .8 that is .8 L + 1.6 L' = 2.4 [L/3 + 2/3 L']: alpha_eff = 2a / (2a + 4(1-a)) = 2/3 and a constant factor 2.4.
    """
    generator = torch.Generator().manual_seed(0)
    ratios = PairLogps(*(20 * torch.randn(6, 50, generator=generator, dtype=torch.float64)))
    a, beta = 0.8, 0.01
    d_gen = ratios[0] - ratios[1] + ratios[2] - ratios[5]
    public = (1 - a) * (beta * d_gen - 1) ** 2
    public = public + a * ((0.5 - beta * (ratios[2] - ratios[3])) ** 2 + (0.5 - beta * (ratios[4] - ratios[5])) ** 2)
    alpha_eff = 2 * a / (2 * a + 4 * (1 - a))
    assert alpha_eff == pytest.approx(2 / 3)
    ours = srpo_loss(ratios, torch.ones(50, dtype=torch.float64), alpha=alpha_eff, beta=beta).loss
    np.testing.assert_allclose(2.4 * ours, public, rtol=1e-12)


# --- independent reference ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(batches)
def test_every_loss_equals_the_numpy_version(batch: tuple[np.ndarray, np.ndarray, float, float]) -> None:
    columns, p, alpha, beta = batch
    expected = numpy_losses(columns, p, alpha, beta)
    for method, required in REQUIRED_LOGPS.items():
        ratios = logps_from_columns(torch.from_numpy(columns)[:, : len(required)])
        ours = LOSSES[method](ratios, torch.from_numpy(p), alpha=alpha, beta=beta).loss
        np.testing.assert_allclose(ours, expected[method], rtol=1e-11, atol=1e-13, err_msg=method)


# --- gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_gradients_equal_numerical_ones(method: str) -> None:
    generator = torch.Generator().manual_seed(1)
    columns = torch.randn(4, len(REQUIRED_LOGPS[method]), generator=generator, dtype=torch.float64).requires_grad_()
    preference = tensor(1.0, 0.8, 0.5, 0.0)

    def loss(columns: Tensor) -> Tensor:
        return LOSSES[method](logps_from_columns(columns), preference, alpha=ALPHA, beta=BETA).loss

    assert torch.autograd.gradcheck(loss, (columns,))


def test_sft_gradient_equals_the_numerical_one() -> None:
    logps = tensor(-6.0, -4.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda logps: sft_loss(logps, torch.tensor([2, 8])), (logps,))


def test_every_log_ratio_of_srpo_gets_a_gradient_and_the_reference_none() -> None:
    policy = PairLogps(*(torch.zeros(2, requires_grad=True) for _ in range(6)))
    reference = PairLogps(*(torch.zeros(2, requires_grad=True) for _ in range(6)))
    srpo_loss(log_ratios(policy, reference), torch.ones(2), alpha=ALPHA, beta=BETA).loss.sum().backward()
    assert all(logp.grad is not None and bool((logp.grad != 0).all()) for logp in policy)
    assert all(logp.grad is None for logp in reference)


@pytest.mark.parametrize(
    ("method", "at_start"),
    [("srpo", -(1 - ALPHA) / 2), ("dpo", -0.5), ("ipo", -1.0), ("dpo_both", -0.25), ("ipo_both", -0.5)],
)
@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_unit_gradient_scaling_makes_the_first_gradient_independent_of_beta(method: str, at_start: float, beta: float) -> None:
    """d loss / d G(w) at a hard label and zero log-ratios, by hand: srpo -(1-alpha) beta/2, dpo -beta/2, ipo -1/beta."""
    columns = torch.zeros(1, len(REQUIRED_LOGPS[method]), dtype=torch.float64, requires_grad=True)
    loss = LOSSES[method](logps_from_columns(columns), tensor(1.0), alpha=ALPHA, beta=beta).loss.sum()
    (loss_scale_factor(method, beta) * loss).backward()
    assert columns.grad is not None
    assert columns.grad[0, 0].item() == pytest.approx(at_start)


@pytest.mark.parametrize("method", METHODS)
def test_losses_and_gradients_are_finite_at_extreme_log_ratios(method: str) -> None:
    magnitudes = torch.tensor([0.0, 1e-30, 1e2, 1e4, 1e6])
    rows = torch.cartesian_prod(magnitudes, torch.tensor([1.0, -1.0])).prod(dim=1)
    columns = torch.stack([rows * sign for sign in (1, -1, 1, -1, 1, -1)][: len(REQUIRED_LOGPS[method])], dim=1).requires_grad_()
    for p in (0.0, 0.5, 1.0):
        result = LOSSES[method](logps_from_columns(columns), torch.full((10,), p), alpha=ALPHA, beta=BETA)
        (gradient,) = torch.autograd.grad(result.loss.sum(), columns)
        assert bool(torch.isfinite(result.loss).all()) and bool(torch.isfinite(gradient).all())


def test_parts_are_detached_so_that_a_log_holds_no_graph() -> None:
    ratios = PairLogps(*(torch.zeros(2, requires_grad=True) for _ in range(6)))
    result = srpo_loss(ratios, torch.ones(2), alpha=ALPHA, beta=BETA)
    assert result.self_improvement_loss is not None
    assert not result.generative_loss.requires_grad and not result.self_improvement_loss.requires_grad
    assert not any(value.requires_grad for value in pair_metrics(ratios, torch.ones(2)).values())


# --- properties -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(batches)
def test_exchanging_the_roles_and_the_preference_changes_no_loss(batch: tuple[np.ndarray, np.ndarray, float, float]) -> None:
    columns, p, alpha, beta = torch.from_numpy(batch[0]), torch.from_numpy(batch[1]), batch[2], batch[3]
    ratios = PairLogps(*columns.unbind(1))
    for method in METHODS:
        as_is = LOSSES[method](ratios, p, alpha=alpha, beta=beta)
        swapped = LOSSES[method](swap_roles(ratios), 1 - p, alpha=alpha, beta=beta)
        np.testing.assert_allclose(swapped.loss, as_is.loss, rtol=1e-9, atol=1e-12, err_msg=method)


@settings(deadline=None, max_examples=50)
@given(batches)
def test_exchanging_the_roles_flips_margins_and_keeps_accuracies(batch: tuple[np.ndarray, np.ndarray, float, float]) -> None:
    ratios, p = PairLogps(*torch.from_numpy(batch[0]).unbind(1)), torch.from_numpy(batch[1])
    as_is, swapped = pair_metrics(ratios, p), pair_metrics(swap_roles(ratios), 1 - p)
    torch.testing.assert_close(swapped["generative_margin"], -as_is["generative_margin"])
    torch.testing.assert_close(swapped["d_gen"], -as_is["d_gen"])
    torch.testing.assert_close(swapped["self_improvement_given_chosen_margin"], -as_is["self_improvement_given_rejected_margin"])
    torch.testing.assert_close(swapped["consistency_gap"], as_is["consistency_gap"])
    torch.testing.assert_close(swapped["generative_accuracy"], as_is["generative_accuracy"])


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_pairs_in_any_order(method: str) -> None:
    generator = torch.Generator().manual_seed(2)
    columns = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    p = torch.rand(7, generator=generator, dtype=torch.float64)
    order = torch.randperm(7, generator=generator)

    def loss(rows: Tensor, preference: Tensor) -> Tensor:
        return LOSSES[method](logps_from_columns(rows), preference, alpha=ALPHA, beta=BETA).loss

    together = loss(columns, p)
    torch.testing.assert_close(loss(columns[order], p[order]), together[order], rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([loss(columns[i : i + 1], p[i : i + 1]) for i in range(7)]), together, rtol=0, atol=0)


def test_at_step_zero_every_loss_is_its_known_constant() -> None:
    """policy == reference: all log-ratios 0. SRPO (p - 1/2)^2 in both parts, DPO ln 2, IPO ((p - 1/2) / beta)^2."""
    logps = pairs(*([[-31.5, -80.25]] * 6))
    ratios, p = log_ratios(logps, logps), tensor(1.0, 0.7)
    for value in ratios:
        assert bool((value == 0).all())
    srpo = srpo_loss(ratios, p, alpha=ALPHA, beta=BETA)
    for part in srpo:
        assert part is not None
        np.testing.assert_allclose(part, np.array([0.25, 0.04]), rtol=1e-12)
    for dpo in (dpo_loss(ratios, p, beta=BETA), dpo_both_loss(ratios, p, beta=BETA)):
        np.testing.assert_allclose(dpo.loss, [math.log(2)] * 2, rtol=1e-12)
    for ipo in (ipo_loss(ratios, p, beta=BETA), ipo_both_loss(ratios, p, beta=BETA)):
        np.testing.assert_allclose(ipo.loss, [25, 4], rtol=1e-12)


@settings(deadline=None, max_examples=50)
@given(batches)
def test_hard_labels_are_unbiased_for_soft_ones(batch: tuple[np.ndarray, np.ndarray, float, float]) -> None:
    """E_y (y - m)^2 = (p - m)^2 + p(1 - p): SRPO gains p(1 - p), IPO p(1 - p) / beta^2, DPO nothing (it is linear in p)."""
    ratios, p = PairLogps(*torch.from_numpy(batch[0]).unbind(1)), torch.from_numpy(batch[1])
    alpha, beta = batch[2], batch[3]
    constants = {"srpo": p * (1 - p), "ipo": p * (1 - p) / beta**2, "ipo_both": p * (1 - p) / beta**2}
    for method in METHODS:
        soft, won, lost = (LOSSES[method](ratios, label, alpha=alpha, beta=beta).loss for label in (p, p * 0 + 1, p * 0))
        expected = soft + constants.get(method, 0 * p)
        np.testing.assert_allclose(p * won + (1 - p) * lost, expected, rtol=1e-9, atol=1e-9, err_msg=method)


def test_alpha_interpolates_between_the_two_parts() -> None:
    ratios, p = pairs([3, 1], [1, 0], [2, 2], [-1, 3], [4, 1], [-2, 0]), tensor(0.9, 0.6)
    for alpha in (1e-9, 0.25, 1 - 1e-9):
        loss, generative, self_improvement = srpo_loss(ratios, p, alpha=alpha, beta=BETA)
        assert self_improvement is not None
        torch.testing.assert_close(loss, (1 - alpha) * generative + alpha * self_improvement)
    torch.testing.assert_close(srpo_loss(ratios, p, alpha=1e-9, beta=BETA).loss, generative, rtol=1e-6, atol=1e-9)


def test_ipo_is_srpos_regression_divided_by_beta_squared() -> None:
    """The revision part of ipo_both is L' / beta^2: only the generative part separates SRPO from IPO on both prompts."""
    ratios, p = pairs([3, 1], [1, 0], [2, 2], [-1, 3], [4, 1], [-2, 0]), tensor(0.9, 0.6)
    srpo, ipo = srpo_loss(ratios, p, alpha=ALPHA, beta=BETA), ipo_both_loss(ratios, p, beta=BETA)
    assert srpo.self_improvement_loss is not None and ipo.self_improvement_loss is not None
    torch.testing.assert_close(ipo.self_improvement_loss, srpo.self_improvement_loss / BETA**2)


def test_dpo_at_a_hard_label_is_the_papers_equation_7() -> None:
    ratios = DraftLogps(tensor(3.0, -2.0), tensor(1.0, 5.0))
    expected = -logsigmoid(BETA * (ratios.logp_chosen - ratios.logp_rejected))
    torch.testing.assert_close(dpo_loss(ratios, tensor(1.0, 1.0), beta=BETA).loss, expected)


def test_losses_of_micro_batches_add_up_to_the_loss_of_the_whole_batch() -> None:
    logps, counts = tensor(-6.0, -4.0, -9.0), torch.tensor([2, 8, 3])
    parts = [sft_loss(logps[rows], counts[rows], total_tokens=counts.sum()) for rows in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(sum(parts), sft_loss(logps, counts))


# --- columns and metrics --------------------------------------------------------------------------------------------------


def test_columns_are_named_in_the_required_order() -> None:
    columns = torch.arange(12.0).view(2, 6)
    for width in (2, 6):
        named = logps_from_columns(columns[:, :width])._asdict()
        assert {name: value.tolist() for name, value in named.items()} == {
            name: columns[:, index].tolist() for index, name in enumerate(PairLogps._fields[:width])
        }


def test_every_preference_method_has_a_loss_and_its_columns() -> None:
    assert set(LOSSES) == set(REQUIRED_LOGPS) == set(PREFERENCE_METHODS)
    num_columns = {method: len(fields) for method, fields in REQUIRED_LOGPS.items()}
    assert num_columns == {"srpo": 6, "dpo": 2, "ipo": 2, "dpo_both": 6, "ipo_both": 6}


def test_metrics_of_a_pair_worked_by_hand() -> None:
    """The pair of the first test: margins 3 - 1, 2 + 1, 4 + 2, all towards chosen; D_gen 6.

    The gap is D_l - D_w = 3 - 6, written below as F(w|l) + F(l|w) - F(w|w) - F(l|l).
    """
    metrics = {name: value.item() for name, value in pair_metrics(pairs([3], [1], [2], [-1], [4], [-2]), tensor(0.9)).items()}
    assert metrics == {
        "log_ratio_chosen": 3,
        "log_ratio_rejected": 1,
        "log_ratio_chosen_given_rejected": 2,
        "log_ratio_rejected_given_rejected": -1,
        "log_ratio_chosen_given_chosen": 4,
        "log_ratio_rejected_given_chosen": -2,
        "generative_margin": 2,
        "generative_accuracy": 1,
        "self_improvement_given_rejected_margin": 3,
        "self_improvement_given_rejected_accuracy": 1,
        "self_improvement_given_chosen_margin": 6,
        "self_improvement_given_chosen_accuracy": 1,
        "d_gen": 6,
        "consistency_gap": 2 + -2 - 4 - -1,
    }


def test_metrics_of_two_log_probs_speak_of_the_generative_role_only() -> None:
    metrics = pair_metrics(DraftLogps(tensor(3.0), tensor(1.0)), tensor(1.0))
    assert set(metrics) == {"log_ratio_chosen", "log_ratio_rejected", "generative_margin", "generative_accuracy"}


def test_accuracy_counts_an_undecided_margin_or_preference_as_half() -> None:
    ratios = DraftLogps(tensor(1.0, -1.0, 0.0, 1.0, -1.0), tensor(0.0, 0.0, 0.0, 0.0, 0.0))
    assert pair_metrics(ratios, tensor(1.0, 0.9, 0.9, 0.5, 0.2))["generative_accuracy"].tolist() == [1, 0, 0.5, 0.5, 1]


# --- refusals -------------------------------------------------------------------------------------------------------------

ZERO = pairs(*([[0.0, 0.0]] * 6))
HARD = tensor(1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: srpo_loss(ZERO, HARD, alpha=0.0, beta=0.1), "alpha strictly between 0 and 1, found 0.0"),
        (lambda: srpo_loss(ZERO, HARD, alpha=1.0, beta=0.1), "alpha strictly between 0 and 1, found 1.0"),
        (lambda: srpo_loss(ZERO, HARD, alpha=math.nan, beta=0.1), "alpha strictly between 0 and 1, found nan"),
        (lambda: srpo_loss(ZERO, HARD, alpha=0.5, beta=0.0), "beta above 0, found 0.0"),
        (lambda: dpo_loss(ZERO, HARD, beta=-1.0), "beta above 0, found -1.0"),
        (lambda: ipo_loss(ZERO, HARD, beta=math.inf), "beta above 0, found inf"),
        (lambda: dpo_loss(ZERO, tensor(1.0, 1.5), beta=0.1), r"preferences in \[0, 1\], found 1 others: \[1.5\]"),
        (lambda: dpo_loss(ZERO, tensor(1.0, math.nan), beta=0.1), r"preferences in \[0, 1\], found 1 others: \[nan\]"),
        (lambda: ipo_both_loss(ZERO, tensor(1.0), beta=0.1), r"one shape \(B,\), found .*'preference': \(1,\)"),
        (lambda: dpo_loss(DraftLogps(tensor(1.0, 2.0), tensor(1.0)), HARD, beta=0.1), r"'logp_rejected': \(1,\)"),
        (lambda: dpo_loss(DraftLogps(torch.zeros(2, 1), torch.zeros(2, 1)), torch.ones(2, 1), beta=0.1), r"one shape \(B,\)"),
        (lambda: dpo_loss(DraftLogps(torch.zeros(2).bfloat16(), torch.zeros(2)), HARD, beta=0.1), "found .*bfloat16"),
        (lambda: LOSSES["srpo"](DraftLogps(*ZERO[:2]), HARD, alpha=0.5, beta=0.1), "six log-ratios"),
        (lambda: LOSSES["dpo_both"](DraftLogps(*ZERO[:2]), HARD, alpha=0.5, beta=0.1), "six log-ratios"),
        (lambda: logps_from_columns(torch.zeros(2, 4)), r"\(B, 2\) or \(B, 6\), found \(2, 4\)"),
        (lambda: mean_logps(ZERO, torch.tensor([1, 0]), torch.tensor([1, 1])), "at least one token"),
        (lambda: sft_loss(HARD, torch.tensor([0, 0])), "at least one completion token"),
        (lambda: sft_loss(HARD, torch.tensor([1])), r"found \(1,\) for \(2,\)"),
        (lambda: loss_scale_factor("sft", 0.1), "expected one of srpo, dpo, .*found sft"),
        (lambda: loss_scale_factor("srpo", 0.0), "beta above 0"),
    ],
)
def test_impossible_input_is_refused_with_what_was_found(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
