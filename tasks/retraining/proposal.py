"""A challenger with all that speaks for and against it: as evidence for the registry, and as Markdown for a person.

The same text is what the UI shows with a decision and what a person reads before approving one.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from srpo_core.scoring.promotion import Comparison
from srpo_core.scoring.win_rate import without_nan
from storage.artifact import Artifact
from tasks.retraining.standing import Standing

Row = dict[str, Any]


class Proposal(NamedTuple):
    """What was found out about a challenger."""

    challenger: Artifact
    champion: Artifact  # the reference where there is no champion yet
    standing: Standing
    screening: Comparison
    confirmation: Comparison | None  # None: the screening failed, and no confirmation prompt was looked at
    look: Row | None  # its entry in the registry
    curves: dict[str, list[Row]]  # part -> both policies by set and revision

    @property
    def passed(self) -> bool:
        """Whether the numbers speak for the challenger."""
        return self.confirmation is not None and self.confirmation.passed

    @property
    def reason(self) -> str:
        """The sentence that says why."""
        champion = self.standing.champion_id
        against = f"champion {champion}" if champion else f"the reference {self.champion.fingerprint}, there being no champion"
        if self.confirmation is None or self.look is None:
            return f"on the screening prompts against {against}, {self.screening.reason}"
        return f"at look {self.look['comparison']} at the confirmation prompts against {against}, {self.confirmation.reason}"

    def evidence(self) -> str:
        """All numbers as JSON."""
        compared = {"screening": self.screening, "confirmation": self.confirmation}
        facts = {
            "challenger": self.challenger.fingerprint,
            "compared_with": self.champion.fingerprint,
            "new_pairs": self.standing.changes.new,
            "withdrawn_pairs": self.standing.changes.withdrawn,
            "curves": self.curves,
        }
        return json.dumps(
            facts | {name: one and comparison_values(one) for name, one in compared.items()}, sort_keys=True, allow_nan=False
        )


def comparison_values(comparison: Comparison) -> Row:
    """A comparison as plain values, None for numbers that do not exist."""
    values = comparison._asdict() | {
        "difference": comparison.difference._asdict(),
        "by_set": {name: interval._asdict() for name, interval in comparison.by_set.items()},
        "guards": [without_nan(one._asdict() | {"sentence": one.sentence if one.failed else None}) for one in comparison.guards],
    }
    return without_nan(values)


def proposal_markdown(proposal: Proposal, title: str, limits: Mapping[str, Any]) -> str:
    """The decision's numbers as Markdown; `limits` are facts to state below the title, such as the registry's entry."""
    challenger, champion = proposal.challenger, proposal.champion
    role = "champion" if proposal.standing.champion_id else "reference (there is no champion yet)"
    reason = f"Challenger `{challenger.fingerprint}` against {role} `{champion.fingerprint}`: {proposal.reason}"
    lines = [decision_markdown(title, reason, limits)]
    for name, compared in (("Screening", proposal.screening), ("Confirmation", proposal.confirmation)):
        if compared is not None:
            lines += [f"## {name}", _differences(compared), _guards(compared), _curves(proposal.curves[name.lower()])]
    return "\n\n".join(lines)


def decision_markdown(title: str, reason: str, facts: Mapping[str, Any]) -> str:
    """A decision without its tables: why, and the facts about it."""
    return "\n\n".join([f"# {title}", f"{reason}.", "\n".join(f"- {name}: {value}" for name, value in facts.items())])


def _differences(compared: Comparison) -> str:
    whole = compared.difference
    interval = f"lower limit {_points(whole.ci_low)} at a one-sided error of {compared.level:.2g}"
    head = f"Difference {_points(whole.estimate)} points, {interval}, margin {_points(compared.margin)}; n = {whole.n} prompts."
    rows = ["| evaluation set | difference | 95 % interval | n |", "|---|---|---|---|"]
    for name, own in compared.by_set.items():
        rows.append(f"| {name} | {_points(own.estimate)} | {_points(own.ci_low)} to {_points(own.ci_high)} | {own.n} |")
    return head + "\n\n" + "\n".join(rows)


def _guards(compared: Comparison) -> str:
    rows = ["| guard | value | limit | |", "|---|---|---|---|"]
    for one in compared.guards:
        rows.append(f"| {one.name} | {one.value:.3f} | {one.limit:.3f} | {'refuses' if one.failed else 'ok'} |")
    return "\n".join(rows)


def _curves(curves: list[Row]) -> str:
    """Win rates by revision: of both against the gold, or of the challenger against the champion."""
    revisions = sorted({row["revision_index"] for row in curves})
    found = {(row["eval_set"], row["role"], row["revision_index"]): row for row in curves}
    head = ["evaluation set", "policy", "against", *(f"revision {index}" for index in revisions)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, role, opponent in dict.fromkeys((row["eval_set"], row["role"], row["opponent"]) for row in curves):
        cells = [_rate(found.get((name, role, index))) for index in revisions]
        lines.append(f"| {name} | {role} | {opponent} | {' | '.join(cells)} |")
    return "Win rates in per cent, with 95 % intervals:\n\n" + "\n".join(lines)


def _rate(row: Row | None) -> str:
    if row is None or row["win_rate"] is None:
        return "–"
    return f"{100 * row['win_rate']:.1f} ({100 * row['ci_low']:.1f}–{100 * row['ci_high']:.1f})"


def _points(value: float | None) -> str:
    return "–" if value is None or value != value else f"{100 * value:+.1f}"
