"""`retrain_on_new_data`: the scheduled retraining in the Prefect UI; the order of its stages is in `flows/retraining.py`.

It ends in one of three completed states: NothingNew, Promoted or Rejected, whose message gives the numbers. A person who must
approve a promotion finds the run suspended, with the table and a form; no process and no device waits meanwhile.
"""

from pathlib import Path
from typing import Any, Literal

from prefect import runtime
from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed, State
from pydantic import Field, ValidationError

from flows.retraining import Approval, Approve, Outcome, retrain
from flows.under_prefect.events import POLICY_PROMOTED, POLICY_REJECTED, announce
from flows.under_prefect.forms import form
from flows.under_prefect.run_tags import name_run, tag_run
from flows.under_prefect.stage_artifacts import show_run
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder
from srpo_core.settings.retraining import RetrainSettings
from tasks.promotion import Proposal, proposal_markdown

STATE_NAMES = {"nothing_new": "NothingNew", "promoted": "Promoted", "rejected": "Rejected"}


class ApprovalForm(RunInput):
    """What a person says to a challenger that passed."""

    decision: Literal["promote", "reject"] = Field(title="Decision", description="reject keeps the present champion")
    note: str = Field("", title="Why", description="kept in the registry")


@form("retrain", name_run)
def retrain_on_new_data(settings: RetrainSettings, home: str = "") -> State[Any]:
    """Train a challenger when new pairs have come, and promote it when it is better for certain.

    Args:
        settings: The pipeline that trains and evaluates, and when the result is promoted.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    tag_run(settings.pipeline)
    folder = home_folder(home)
    outcome = retrain(
        settings,
        folder,
        as_prefect_task,
        approve=_ask(settings) if runtime.deployment.id else None,
        prefect_run=str(runtime.flow_run.id),
        deployment=runtime.deployment.name,
    )
    if outcome.entry is not None:
        _show(outcome, folder)
        _announce(outcome, folder)
    return Completed(name=STATE_NAMES[outcome.event], message=outcome.message)


def _ask(settings: RetrainSettings) -> Approve:
    """How a person is asked: the run is suspended with the table and a form, and starts again from its top when it is resumed."""

    def approve(proposal: Proposal, run_id: str) -> Approval:
        text = proposal_markdown(proposal, "Promote this challenger?", {"run": run_id})
        form_shown = ApprovalForm.with_initial_data(description=text)
        waits = int(settings.promotion.approval_hours * 3600)
        number = 1
        while True:
            try:
                answer = suspend_flow_run(form_shown, timeout=waits, key=f"{proposal.standing.attempt}-{number}")
                return Approval(answer.decision == "promote", answer.note)
            except ValidationError:  # this run asked before, nobody answered in time, and a person has it tried again
                number += 1

    return approve


def _show(outcome: Outcome, home: Path) -> None:
    """The decision with all its numbers, and beside it the run's win rates; each with a history by its key."""
    if outcome.proposal is not None and outcome.entry is not None:
        text = proposal_markdown(outcome.proposal, STATE_NAMES[outcome.event], _facts(outcome.entry))
        create_markdown_artifact(text, key="retraining", description=outcome.message)
    show_run(home, str(outcome.run_id))


def _facts(entry: dict[str, Any]) -> dict[str, Any]:
    """What the registry says of the decision."""
    return {
        "entry of the registry": entry["entry"],
        "decided by": entry["by"],
        "champion now": entry["champion_id"] or "none",
        "error level spent by all looks": f"{entry['cumulative_level']:.4f}",
        "by SQL": f"`SELECT * FROM registry WHERE entry = {entry['entry']}`",
    }


def _announce(outcome: Outcome, home: Path) -> None:
    """Tell people's own automations."""
    entry = outcome.entry or {}
    name = POLICY_PROMOTED if outcome.event == "promoted" else POLICY_REJECTED
    told = ("entry", "event", "policy_id", "champion_id", "previous_champion_id", "by", "reason", "run_id", "cumulative_level")
    payload = {column: entry[column] for column in told} | {"home": str(home)}
    announce(name, resource=f"srpo.policy.{entry['policy_id']}", payload=payload, key=f"{home}:{entry['key']}")
