"""The three-armed bandit of the SRPO paper: SRPO's optimum does not depend on who wrote the data, DPO's and IPO's do.

A prompt with three possible completions, a preference between them that is known exactly (and is not Bradley-Terry), and a
behaviour policy mu that drew the pairs. Tabular softmax policies are fitted with the project's own losses, to the whole
population of pairs and to sampled hard labels. See docs/bandit.md.

    python docs/examples/bandit.py                      # prints the table, a few seconds
    python docs/examples/bandit.py --plot bandit.png    # and draws it
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from srpo_core.losses import LOSSES, PairLogps, log_ratios

BETA = 0.1
ALPHA = 2 / 3  # any value strictly between 0 and 1 gives the same population optimum
NUM_SAMPLES = 20_000
SEED = 0
METHODS = ("srpo", "ipo", "dpo")
# PREFERENCE[i, j] = P(arm i is preferred to arm j). Arm 2 beats both others; arm 0 is nearly unbeatable against arm 1 only.
PREFERENCE = torch.tensor([[0.5, 0.99, 0.30], [0.01, 0.5, 0.25], [0.70, 0.75, 0.5]], dtype=torch.float64)
BEHAVIOURS = {
    "uniform": torch.full((3,), 1 / 3, dtype=torch.float64),
    "skewed": torch.tensor([0.15, 0.70, 0.15], dtype=torch.float64),
}


class Pairs(NamedTuple):
    """Weighted labelled pairs of arms; every field has shape (N,)."""

    chosen: Tensor  # arm
    rejected: Tensor  # arm
    preference: Tensor  # P(chosen preferred to rejected)
    weight: Tensor  # sums to 1


class Policy(NamedTuple):
    """Log-probabilities of both roles."""

    drafts: Tensor  # (3,), log pi(arm)
    revisions: Tensor  # (3, 3), [draft, revision] = log pi'(revision | draft)


def population_pairs(behaviour: Tensor) -> Pairs:
    """All ordered pairs of arms, y1 and y2 drawn independently from the behaviour, with their exact preference."""
    chosen, rejected = torch.cartesian_prod(torch.arange(3), torch.arange(3)).unbind(dim=1)
    return Pairs(chosen, rejected, PREFERENCE[chosen, rejected], behaviour[chosen] * behaviour[rejected])


def sampled_pairs(behaviour: Tensor, num_samples: int, seed: int) -> Pairs:
    """The same from `num_samples` draws, each labelled by one annotator: equal (chosen, rejected) pairs are counted together."""
    generator = torch.Generator().manual_seed(seed)
    arms = torch.multinomial(behaviour, 2 * num_samples, replacement=True, generator=generator).view(2, num_samples)
    first_wins = torch.rand(num_samples, dtype=torch.float64, generator=generator) < PREFERENCE[arms[0], arms[1]]
    ordered = torch.where(first_wins, arms, arms.flip(0)).T  # (num_samples, 2): chosen, rejected
    distinct, counts = torch.unique(ordered, dim=0, return_counts=True)
    return Pairs(distinct[:, 0], distinct[:, 1], torch.ones(len(distinct), dtype=torch.float64), counts / num_samples)


def pair_logps(policy: Policy, pairs: Pairs) -> PairLogps:
    """Look the six log-probs of every pair up in the tables."""
    chosen, rejected = pairs.chosen, pairs.rejected
    drafts, revisions = policy
    return PairLogps(
        logp_chosen=drafts[chosen],
        logp_rejected=drafts[rejected],
        logp_chosen_given_rejected=revisions[rejected, chosen],
        logp_rejected_given_rejected=revisions[rejected, rejected],
        logp_chosen_given_chosen=revisions[chosen, chosen],
        logp_rejected_given_chosen=revisions[chosen, rejected],
    )


def fit(method: str, pairs: Pairs) -> Policy:
    """Minimise the method's mean loss over the pairs from the uniform reference, to convergence (LBFGS, float64)."""
    uniform = math.log(1 / 3)
    reference = Policy(torch.full((3,), uniform, dtype=torch.float64), torch.full((3, 3), uniform, dtype=torch.float64))
    logits = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)  # row 0: drafts; rows 1-3: revisions of each draft
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=2_000, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def current_policy() -> Policy:
        logps = logits.log_softmax(dim=1)
        return Policy(logps[0], logps[1:])

    def closure() -> Tensor:
        optimizer.zero_grad()
        ratios = log_ratios(pair_logps(current_policy(), pairs), pair_logps(reference, pairs))
        loss = (pairs.weight * LOSSES[method](ratios, pairs.preference, alpha=ALPHA, beta=BETA).loss).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return current_policy()


class Row(NamedTuple):
    """One line of the table; the two optima are the probabilities (3,) of the arms as drafts."""

    method: str
    behaviour: str
    population: Tensor
    sampled: Tensor


def fit_all(num_samples: int, seed: int) -> list[Row]:
    """Fit every method to every behaviour's pairs, once to all of them and once to a sample."""
    rows = []
    for method in METHODS:
        for name, behaviour in BEHAVIOURS.items():
            population = fit(method, population_pairs(behaviour)).drafts.exp()
            sampled = fit(method, sampled_pairs(behaviour, num_samples, seed)).drafts.exp()
            rows.append(Row(method, name, population, sampled))
    return rows


def format_table(rows: Sequence[Row], num_samples: int) -> str:
    """The table that docs/bandit.md shows."""
    lines = [f"{'method':<8}{'behaviour':<11}{'population optimum':<22}from {num_samples:,} sampled labels"]
    for row in rows:
        population, sampled = (" / ".join(f"{value:.3f}" for value in optimum.tolist()) for optimum in row[2:])
        lines.append(f"{row.method:<8}{row.behaviour:<11}{population:<22}{sampled}")
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Write a bar chart: one panel per method, one group of bars per arm, bars = population optimum, dots = sampled labels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, len(METHODS), sharey=True)
    for panel, method in zip(panels, METHODS, strict=True):
        for index, (_, behaviour, population, sampled) in enumerate(row for row in rows if row.method == method):
            places = [arm + 0.4 * index - 0.2 for arm in range(3)]
            panel.bar(places, population.tolist(), width=0.38, label=f"{behaviour} behaviour")
            panel.plot(places, sampled.tolist(), "k.")
        panel.set(title=method.upper(), xlabel="arm", xticks=range(3))
    panels[0].set_ylabel("probability as a draft")
    panels[0].legend(loc="upper left", fontsize="small")
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, print, and draw if asked."""
    parser = argparse.ArgumentParser(description="The three-armed bandit of the SRPO paper.")
    parser.add_argument("--samples", type=int, default=NUM_SAMPLES, help="labelled pairs to draw (default %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the draws (default %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the table (.png, .pdf, .svg)")
    options = parser.parse_args(arguments)
    if options.samples < 1:
        parser.error(f"expected --samples of at least 1, found {options.samples}")
    rows = fit_all(options.samples, options.seed)
    print(format_table(rows, options.samples))
    if options.plot is not None:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
