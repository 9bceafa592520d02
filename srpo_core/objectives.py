"""What a training step minimises, as examples with token ids and a function from their log-probs to a loss.

Two objectives share one training loop: imitation of demonstrations (both roles), and a preference loss of `losses.py` on
log-ratios to a frozen reference whose log-probs come ready computed. Does not run a model.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from srpo_core.batches import Batch, Group
from srpo_core.errors import InputError
from srpo_core.losses import LOSSES, REQUIRED_LOGPS, log_ratios, logps_from_columns, loss_scale_factor, mean_logps, pair_metrics
from srpo_core.losses import sft_loss as imitation_loss
from srpo_core.settings.training import PreferenceSettings
from srpo_core.tokenization import PairTokens, PairTooLong, PromptTokenizer, tokenize_demonstrations, tokenize_pairs
from srpo_core.trie import TokenSequence

# Columns of a pair stored by text (a, b, a|a, b|a, a|b, b|b) in the order of `PairLogps` (w, l, w|l, l|l, w|w, l|w).
ROLES_WHEN_A_IS_CHOSEN = (0, 1, 4, 5, 2, 3)
ROLES_WHEN_B_IS_CHOSEN = (1, 0, 3, 2, 5, 4)


MAX_GROUP = 4  # demonstrations that share one token tree: a draft and its revisions


class StepPart(NamedTuple):
    """One micro-batch's contribution to an optimizer step."""

    loss: Tensor  # scalar; the parts of a step add up to its loss
    sums: dict[str, Tensor]  # metric name -> sum over the micro-batch's examples, detached


class Objective(Protocol):
    """Examples, and the loss of some of them."""

    groups: list[Group]  # one per example: the sequences that must stay together
    examples_per_step: int
    loss_at_start: float | None  # mean loss of a policy that equals the reference; None where it is not known beforehand

    def step_size(self, indices: Sequence[int]) -> float:
        """What the loss of the step over all these examples (on all processes) is divided by."""
        ...

    def metric_weights(self, indices: Sequence[int]) -> dict[str, float]:
        """What the step's metric sums are divided by, where it is not `step_size`."""
        ...

    def part(self, logps: Tensor, batch: Batch, indices: Sequence[int], step_size: float) -> StepPart:
        """The contribution of `batch`, whose group i is example `indices[batch.group_indices[i]]`."""
        ...


class PairExample(NamedTuple):
    """A tokenised pair and the reference's six log-probs of it, both by text."""

    tokens: PairTokens
    chosen_is_a: bool
    preference: float
    reference: tuple[float, ...]  # nats, in the order of `tokens.sequences`


class PreferenceObjective:
    """SRPO, DPO, IPO and their two-prompt forms."""

    def __init__(self, examples: Sequence[PairExample], settings: PreferenceSettings) -> None:
        """Raises InputError when there is nothing to train on: no pair, or ties alone."""
        if not examples:
            raise InputError(
                "expected at least one preference pair to train on, found none; look at the counts of the preferences"
            )
        if all(example.preference == 0.5 for example in examples):
            raise InputError(
                f"expected a preferred side in at least one training pair, found ties alone in all {len(examples)}; add pairs"
            )
        self.settings = settings
        self.examples = list(examples)
        self.columns = len(REQUIRED_LOGPS[settings.method])
        self.groups: list[Group] = [example.tokens.sequences[: self.columns] for example in examples]
        self.examples_per_step = settings.pairs_per_step
        scaled = settings.loss_scale == "unit_gradient"
        self.scale = loss_scale_factor(settings.method, settings.beta) if scaled else 1.0
        self.loss_at_start: float | None = self._loss_at_start()

    def step_size(self, indices: Sequence[int]) -> float:
        """Pairs of the step."""
        return float(len(indices))

    def metric_weights(self, indices: Sequence[int]) -> dict[str, float]:
        """Every metric is a mean over pairs."""
        return {}

    def part(self, logps: Tensor, batch: Batch, indices: Sequence[int], step_size: float) -> StepPart:
        """The preference loss and every metric of `pair_metrics`, summed over the micro-batch's pairs."""
        chosen = [self.examples[indices[i]] for i in batch.group_indices]
        device = logps.device
        by_role = [ROLES_WHEN_A_IS_CHOSEN if e.chosen_is_a else ROLES_WHEN_B_IS_CHOSEN for e in chosen]
        order = torch.tensor([roles[: self.columns] for roles in by_role], device=device)
        policy = logps.float().view(len(chosen), self.columns).gather(1, order)
        stored = torch.tensor([e.reference[: self.columns] for e in chosen], dtype=torch.float32, device=device).gather(1, order)
        preference = torch.tensor([e.preference for e in chosen], dtype=torch.float32, device=device)
        ratios = log_ratios(logps_from_columns(policy), logps_from_columns(stored))
        metrics = pair_metrics(ratios, preference)
        if self.settings.logp_reduction == "mean":
            ratios = mean_logps(ratios, *self._lengths(chosen, device))
        terms = LOSSES[self.settings.method](ratios, preference, alpha=self.settings.alpha, beta=self.settings.beta)
        metrics |= {"loss": terms.loss.detach(), "loss/generative": terms.generative_loss}
        if terms.self_improvement_loss is not None:
            metrics["loss/self_improvement"] = terms.self_improvement_loss
        sums = {name: value.sum().detach() for name, value in metrics.items()}
        return StepPart(self.scale * terms.loss.sum() / step_size, sums)

    def _loss_at_start(self) -> float:
        preference = torch.tensor([example.preference for example in self.examples], dtype=torch.float32)
        equal = logps_from_columns(torch.zeros(len(preference), self.columns))
        loss = LOSSES[self.settings.method](equal, preference, alpha=self.settings.alpha, beta=self.settings.beta).loss
        return float(loss.mean())

    @staticmethod
    def _lengths(chosen: Sequence[PairExample], device: torch.device) -> tuple[Tensor, Tensor]:
        lengths = [
            (e.tokens.num_tokens_a, e.tokens.num_tokens_b) if e.chosen_is_a else (e.tokens.num_tokens_b, e.tokens.num_tokens_a)
            for e in chosen
        ]
        both = torch.tensor(lengths, device=device)
        return both[:, 0], both[:, 1]


class ImitationObjective:
    """Supervised fine-tuning of both roles. Demonstrations of one prompt that follow one another share its tokens."""

    def __init__(self, groups: Sequence[Group], draft_flags: Sequence[Sequence[bool]], examples_per_step: int) -> None:
        """`draft_flags[i][j]`: whether sequence j of group i is a first draft. Raises InputError when there is no group."""
        if not groups:
            raise InputError(
                "expected at least one demonstration to train on, found none; look at the counts of the demonstrations"
            )
        self.groups = list(groups)
        self.draft_flags = [list(flags) for flags in draft_flags]
        mean_size = sum(map(len, groups)) / len(groups)
        self.examples_per_step = max(1, round(examples_per_step / mean_size))
        self.loss_at_start: float | None = None
        self._tokens = [sum(len(completion) for _, completion in group) for group in groups]

    def step_size(self, indices: Sequence[int]) -> float:
        """Completion tokens of the step."""
        return float(sum(self._tokens[i] for i in indices))

    def metric_weights(self, indices: Sequence[int]) -> dict[str, float]:
        """Nats per draft and per revision; a step without one of them reports 0."""
        flags = [flag for i in indices for flag in self.draft_flags[i]]
        return {"nll/draft": max(1, sum(flags)), "nll/revision": max(1, len(flags) - sum(flags))}

    def part(self, logps: Tensor, batch: Batch, indices: Sequence[int], step_size: float) -> StepPart:
        """Negative log-prob per token, and beside it per draft and per revision in nats a completion."""
        lengths = batch.completion_lengths
        loss = imitation_loss(logps.float(), lengths, total_tokens=step_size)
        drafts = torch.tensor([flag for i in batch.group_indices for flag in self.draft_flags[indices[i]]], device=logps.device)
        nll = -logps.detach().float()
        sums = {"loss": loss.detach() * step_size, "nll/draft": nll[drafts].sum(), "nll/revision": nll[~drafts].sum()}
        return StepPart(loss, sums)


def build_pair_examples(
    tok: PromptTokenizer, pairs: Sequence[Mapping[str, Any]], reference: Mapping[str, tuple[float, ...]]
) -> tuple[list[PairExample], int]:
    """Tokenise rows of `preferences` and join the reference rows by pair_id; also the number of pairs that do not fit.

    Raises InputError naming a pair that fits and has no reference row.
    """
    texts = [(row["prompt"], *sorted((row["chosen"], row["rejected"]))) for row in pairs]
    examples, too_long = [], 0
    for row, tokens in zip(pairs, tokenize_pairs(tok, texts), strict=True):
        if isinstance(tokens, PairTooLong):
            too_long += 1
            continue
        logps = reference.get(row["pair_id"])
        if logps is None:
            raise InputError(
                f"expected reference log-probs of pair {row['pair_id']}, found none; run the reference stage on these preferences"
            )
        examples.append(PairExample(tokens, row["chosen"] <= row["rejected"], row["preference"], logps))
    return examples, too_long


def build_imitation_groups(
    tok: PromptTokenizer, demonstrations: Sequence[Mapping[str, Any]]
) -> tuple[list[Group], list[list[bool]], int]:
    """Tokenise rows of `demonstrations`, grouping a draft with the revisions that follow it; also how many do not fit."""
    items = [(row["prompt"], row["draft"], row["completion"]) for row in demonstrations]
    tokenized = list(zip(items, tokenize_demonstrations(tok, items), strict=True))
    fitting = [(item, tokens) for item, tokens in tokenized if not isinstance(tokens, PairTooLong)]
    groups: list[list[TokenSequence]] = []
    flags: list[list[bool]] = []
    previous: Any = None
    for (prompt, draft, _), tokens in fitting:
        # A first draft opens a group: many people's answers to one question are many groups, not one endless tree.
        if draft is None or prompt != previous or len(groups[-1]) == MAX_GROUP:
            groups.append([])
            flags.append([])
        groups[-1].append((tokens.prompt_ids, tokens.completion_ids))
        flags[-1].append(draft is None)
        previous = prompt
    return list(groups), flags, len(tokenized) - len(fitting)
