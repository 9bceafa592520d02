"""Preference losses on completion log-probabilities, one value per pair: SRPO; DPO and IPO on one prompt or on both; SFT.

Sources: SRPO (arXiv 2406.01660), DPO (2305.18290), IPO (2310.12036). Everything here is arithmetic on tensors of shape (B,)
in nats; which tokens count is decided in `logprobs.py`. With G and F the log-ratios policy / reference of a completion given
the prompt and of a completion given the prompt and a draft, w = chosen and l = rejected,

    D_gen = G(w) - G(l) + F(w|l) - F(l|w)      D_l = F(w|l) - F(l|l)      D_w = F(w|w) - F(l|w)

A preference is p = P(chosen preferred to rejected): 1 is a hard label, 1/2 a tie. A training loop needs one line:

    loss = LOSSES[method](logps_from_columns(log_ratios), preference, alpha=alpha, beta=beta).loss.mean()
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class DraftLogps(NamedTuple):
    """What DPO and IPO read: the log-prob of each completion given the prompt. Tensors (B,), nats."""

    logp_chosen: Tensor  # log pi(w)
    logp_rejected: Tensor  # log pi(l)


class PairLogps(NamedTuple):
    """What SRPO reads: `DraftLogps` and the log-prob of each completion as a revision of each draft. Tensors (B,), nats.

    Two types rather than one with absent fields: a loss that needs six numbers cannot be handed two. The fields are in the
    column order of a (B, 6) tensor, and the first two are `DraftLogps`.
    """

    logp_chosen: Tensor  # log pi(w)
    logp_rejected: Tensor  # log pi(l)
    logp_chosen_given_rejected: Tensor  # log pi'(w|l)
    logp_rejected_given_rejected: Tensor  # log pi'(l|l)
    logp_chosen_given_chosen: Tensor  # log pi'(w|w)
    logp_rejected_given_chosen: Tensor  # log pi'(l|w)


class PreferenceLoss(NamedTuple):
    """Per-pair losses, unreduced: the caller weights and averages."""

    loss: Tensor  # (B,), to be minimised
    generative_loss: Tensor  # (B,), detached: the part that trains the generative role, unweighted
    self_improvement_loss: Tensor | None  # (B,), detached: the same for the other role; None where the method has no such part


AnyLogps = TypeVar("AnyLogps", bound=DraftLogps | PairLogps)
MarginLoss = Callable[[Tensor, Tensor, float], Tensor]


def logps_from_columns(columns: Tensor) -> DraftLogps | PairLogps:
    """Name the columns of a (B, 2) or (B, 6) tensor that is in the order of `REQUIRED_LOGPS`; ValueError on another shape."""
    if columns.dim() != 2 or columns.shape[1] not in (2, 6):
        raise ValueError(f"expected log-probs of shape (B, 2) or (B, 6), found {tuple(columns.shape)}")
    unbound = columns.unbind(dim=1)
    return PairLogps(*unbound) if len(unbound) == 6 else DraftLogps(*unbound)


def log_ratios(policy: AnyLogps, reference: AnyLogps) -> AnyLogps:
    """Log-ratios G and F, in nats: policy minus reference, field by field. The reference gets no gradient."""
    return type(policy)(*(ours - theirs.detach() for ours, theirs in zip(policy, reference, strict=True)))


def mean_logps(logps: AnyLogps, num_tokens_chosen: Tensor, num_tokens_rejected: Tensor) -> AnyLogps:
    """Turn sums over a completion's tokens into means; counts (B,) include the stop token. ValueError on a count below 1."""
    if min(num_tokens_chosen.min(), num_tokens_rejected.min()) < 1:
        raise ValueError("expected at least one token in every completion, found a completion of none")
    counts = [num_tokens_chosen if name.startswith("logp_chosen") else num_tokens_rejected for name in logps._fields]
    return type(logps)(*(logp / count for logp, count in zip(logps, counts, strict=True)))


def srpo_loss(ratios: PairLogps, preference: Tensor, *, alpha: float, beta: float) -> PreferenceLoss:
    """(1 - alpha) L + alpha L', the squared residuals of the two identities that hold at the optimum (method: equations A and B).

    This is the normalised convention: L and L' have the same scale, so alpha is the plain weight of the self-improvement
    role (alpha .8 of the public code, which counts L four times and L' twice, is 2/3 here).

    Args:
        ratios: log-ratios, six tensors (B,) in nats.
        preference: (B,), P(chosen preferred to rejected) in [0, 1].
        alpha: strictly between 0 and 1: at 0 the minimiser is not unique, at 1 the generative role is not trained.
        beta: above 0.

    Raises:
        ValueError: unequal shapes, half precision, or a value outside its range.
    """
    _check_pairs(ratios, preference, beta)
    if not 0 < alpha < 1:
        raise ValueError(f"expected alpha strictly between 0 and 1, found {alpha}")
    if not isinstance(ratios, PairLogps):
        raise ValueError("SRPO needs the six log-ratios of PairLogps, found the two of DraftLogps")
    target = preference - 0.5
    given_rejected, given_chosen = _self_improvement_margins(ratios)
    generative = (target - beta / 2 * _cross_margin(ratios)) ** 2  # from (B)
    self_improvement = ((target - beta * given_rejected) ** 2 + (target - beta * given_chosen) ** 2) / 2  # from (A), either draft
    return PreferenceLoss((1 - alpha) * generative + alpha * self_improvement, generative.detach(), self_improvement.detach())


def dpo_loss(ratios: DraftLogps | PairLogps, preference: Tensor, *, beta: float) -> PreferenceLoss:
    """-log sigmoid(beta (G(w) - G(l))), DPO Eq. 7; at a soft label the cross-entropy with it. Arguments as in `srpo_loss`."""
    return _draft_loss(_logistic, ratios, preference, beta)


def ipo_loss(ratios: DraftLogps | PairLogps, preference: Tensor, *, beta: float) -> PreferenceLoss:
    """(G(w) - G(l) - 1/(2 beta))^2, IPO Eq. 17; at a soft label the target is (p - 1/2)/beta. Arguments as in `srpo_loss`."""
    return _draft_loss(_squared, ratios, preference, beta)


def dpo_both_loss(ratios: PairLogps, preference: Tensor, *, beta: float) -> PreferenceLoss:
    """DPO on both prompts: 1/2 on drafts, 1/4 on revisions of the rejected draft, 1/4 on revisions of the chosen draft."""
    return _both_loss(_logistic, ratios, preference, beta)


def ipo_both_loss(ratios: PairLogps, preference: Tensor, *, beta: float) -> PreferenceLoss:
    """IPO on both prompts, weighted as in `dpo_both_loss`; its revision part is SRPO's L' divided by beta^2."""
    return _both_loss(_squared, ratios, preference, beta)


def sft_loss(logps: Tensor, num_tokens: Tensor, *, total_tokens: Tensor | float | None = None) -> Tensor:
    """Negative log-likelihood per token, a scalar in nats, the same for drafts and for revisions.

    Args:
        logps: (B,), summed over the completion's tokens.
        num_tokens: (B,), how many tokens that was.
        total_tokens: tokens of the whole optimizer step over all micro-batches and processes, so that their losses add up
            to the loss of one large batch; none = the tokens of this batch.

    Raises:
        ValueError: unequal shapes, or no token at all.
    """
    if logps.shape != num_tokens.shape:
        raise ValueError(f"expected one token count per log-prob, found {tuple(num_tokens.shape)} for {tuple(logps.shape)}")
    divisor = num_tokens.sum() if total_tokens is None else total_tokens
    if divisor <= 0:
        raise ValueError(f"expected at least one completion token in the batch, found {float(divisor):g}")
    return -logps.sum() / divisor


@torch.no_grad()
def pair_metrics(ratios: DraftLogps | PairLogps, preference: Tensor) -> dict[str, Tensor]:
    """Training diagnostics per pair, each (B,) and detached: log-ratios and margins in nats, accuracies in [0, 1].

    `consistency_gap` is D_l - D_w = F(w|l) + F(l|w) - F(w|w) - F(l|l): it must go to 0 and needs no label.
    With `DraftLogps` only the generative role's metrics are there.
    """
    metrics = {f"log_ratio_{name.removeprefix('logp_')}": value.detach() for name, value in ratios._asdict().items()}
    margins = {"generative": _generative_margin(ratios)}
    if isinstance(ratios, PairLogps):
        given_rejected, given_chosen = _self_improvement_margins(ratios)
        margins |= {"self_improvement_given_rejected": given_rejected, "self_improvement_given_chosen": given_chosen}
        metrics |= {"d_gen": _cross_margin(ratios), "consistency_gap": given_rejected - given_chosen}
    for role, margin in margins.items():
        metrics |= {f"{role}_margin": margin, f"{role}_accuracy": _accuracy(margin, preference)}
    return metrics


def loss_scale_factor(method: str, beta: float) -> float:
    """The constant that makes a method's gradient per nat of order one (`loss_scale: unit_gradient`).

    At a hard label and zero log-ratios |d loss / d G(w)| is (1 - alpha) beta/2 for SRPO, beta/2 for DPO and 1/beta for IPO:
    a learning rate, a clipping norm or Adam's epsilon that suits one is orders of magnitude off for another.
    ValueError on an unknown method or a beta that is not above 0.
    """
    if method not in LOSSES:
        raise ValueError(f"expected one of {', '.join(LOSSES)}, found {method}")
    _check_beta(beta)
    return beta if method.startswith("ipo") else 1 / beta


def _generative_margin(ratios: DraftLogps | PairLogps) -> Tensor:
    return ratios.logp_chosen - ratios.logp_rejected


def _self_improvement_margins(ratios: PairLogps) -> tuple[Tensor, Tensor]:
    """D_l and D_w: how much the reviser prefers chosen to rejected, given the rejected and given the chosen draft."""
    given_rejected = ratios.logp_chosen_given_rejected - ratios.logp_rejected_given_rejected
    given_chosen = ratios.logp_chosen_given_chosen - ratios.logp_rejected_given_chosen
    return given_rejected, given_chosen


def _cross_margin(ratios: PairLogps) -> Tensor:
    """D_gen, which ties the two roles together."""
    return _generative_margin(ratios) + ratios.logp_chosen_given_rejected - ratios.logp_rejected_given_chosen


def _logistic(margin: Tensor, preference: Tensor, beta: float) -> Tensor:
    return -preference * logsigmoid(beta * margin) - (1 - preference) * logsigmoid(-beta * margin)


def _squared(margin: Tensor, preference: Tensor, beta: float) -> Tensor:
    return (margin - (preference - 0.5) / beta) ** 2


def _draft_loss(form: MarginLoss, ratios: DraftLogps | PairLogps, preference: Tensor, beta: float) -> PreferenceLoss:
    _check_pairs(ratios, preference, beta)
    loss = form(_generative_margin(ratios), preference, beta)
    return PreferenceLoss(loss, loss.detach(), None)


def _both_loss(form: MarginLoss, ratios: PairLogps, preference: Tensor, beta: float) -> PreferenceLoss:
    _check_pairs(ratios, preference, beta)
    if not isinstance(ratios, PairLogps):
        raise ValueError("a loss on both prompts needs the six log-ratios of PairLogps, found the two of DraftLogps")
    drafts = form(_generative_margin(ratios), preference, beta)
    given_rejected, given_chosen = (form(margin, preference, beta) for margin in _self_improvement_margins(ratios))
    revisions = (given_rejected + given_chosen) / 2
    return PreferenceLoss((drafts + revisions) / 2, drafts.detach(), revisions.detach())


def _accuracy(margin: Tensor, preference: Tensor) -> Tensor:
    """1 if the margin points to the preferred completion, 0 if to the other, 1/2 if it or the preference is undecided."""
    return 0.5 + 0.5 * torch.sign(margin) * torch.sign(preference - 0.5)


def _check_beta(beta: float) -> None:
    if not 0 < beta < math.inf:
        raise ValueError(f"expected a finite beta above 0, found {beta}")


def _check_pairs(ratios: DraftLogps | PairLogps, preference: Tensor, beta: float) -> None:
    """ValueError unless all tensors are (B,) of one length, in at least single precision, and every setting is in its range."""
    _check_beta(beta)
    tensors = {**ratios._asdict(), "preference": preference}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if preference.dim() != 1 or len(set(shapes.values())) > 1:
        raise ValueError(f"expected tensors of one shape (B,), found {shapes}")
    dtypes = {ratio.dtype for ratio in ratios}
    if not dtypes <= {torch.float32, torch.float64}:  # a bfloat16 sum of -300 nats is only known to within a nat
        raise ValueError(f"expected log-ratios in float32 or float64, found {sorted(map(str, dtypes))}")
    outside = ~((preference >= 0) & (preference <= 1))  # a NaN is outside as well
    if outside.any():
        raise ValueError(f"expected preferences in [0, 1], found {int(outside.sum())} others: {preference[outside][:3].tolist()}")


def _ignoring_alpha(loss: Callable[..., PreferenceLoss]) -> Callable[..., PreferenceLoss]:
    """Give a loss without a mixing weight the signature that all methods share."""

    def with_alpha(ratios: DraftLogps | PairLogps, preference: Tensor, *, alpha: float, beta: float) -> PreferenceLoss:
        return loss(ratios, preference, beta=beta)

    return with_alpha


# Every preference method under one signature: (ratios, preference, *, alpha, beta) -> PreferenceLoss.
LOSSES: dict[str, Callable[..., PreferenceLoss]] = {
    "srpo": srpo_loss,
    "dpo": _ignoring_alpha(dpo_loss),
    "ipo": _ignoring_alpha(ipo_loss),
    "dpo_both": _ignoring_alpha(dpo_both_loss),
    "ipo_both": _ignoring_alpha(ipo_both_loss),
}
# The log-probs a method reads, in the column order of `logps_from_columns`: all six, or the first two.
REQUIRED_LOGPS: dict[str, tuple[str, ...]] = {
    "srpo": PairLogps._fields,
    "dpo": DraftLogps._fields,
    "ipo": DraftLogps._fields,
    "dpo_both": PairLogps._fields,
    "ipo_both": PairLogps._fields,
}
