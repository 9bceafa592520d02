"""`retrain_on_new_data`: the scheduled retraining in the Prefect UI; the order of its stages is in `flows/retraining.py`.

It ends in one of three completed states: NothingNew, Promoted or Rejected, whose message gives the numbers. A person who must
approve a promotion finds the run suspended, with the table and a form; no process and no device waits meanwhile.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from prefect import runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed, State
from pydantic import Field, ValidationError

from flows.under_prefect.events import POLICY_PROMOTED, POLICY_REJECTED, announce_decision
from flows.under_prefect.forms import form
from flows.under_prefect.run_tags import name_run, tag_run
from flows.under_prefect.stage_artifacts import show_run, store_artifact
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder
from srpo_core.settings.retraining import RetrainSettings

if TYPE_CHECKING:
    from flows.retraining import Approval, Approve, Outcome
    from tasks.retraining.proposal import Proposal

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
    from flows.retraining import retrain

    tag_run(settings.pipeline)
    folder = home_folder(home)
    outcome = retrain(
        settings,
        folder,
        as_prefect_task,
        approve=_ask(settings) if runtime.deployment.id else None,
        is_open=_is_open,
        prefect_run=str(runtime.flow_run.id),
        deployment=runtime.deployment.name,
    )
    if outcome.entry is not None:
        announce_decision(POLICY_PROMOTED if outcome.event == "promoted" else POLICY_REJECTED, outcome.entry, folder)
        _show(outcome, outcome.entry, folder)
    return Completed(name=STATE_NAMES[outcome.event], message=outcome.message)


def _ask(settings: RetrainSettings) -> "Approve":
    """How a person is asked: the run is suspended with the table and a form, and starts again from its top when it is resumed."""

    from flows.retraining import Approval
    from storage.artifact import hash_of
    from tasks.retraining.proposal import proposal_markdown

    def approve(proposal: "Proposal", run_id: str) -> "Approval":
        text = proposal_markdown(proposal, "Promote this challenger?", {"run": run_id})
        form_shown = ApprovalForm.with_initial_data(description=text)
        waits = int(settings.promotion.approval_hours * 3600)
        number, shown = 1, hash_of([proposal.standing.attempt, proposal.evidence()], 32)  # an answer is one to these numbers
        while True:
            try:
                answer = suspend_flow_run(form_shown, timeout=waits, key=f"{shown}-{number}")
                return Approval(answer.decision == "promote", answer.note)
            except ValidationError:  # this run asked before, nobody answered in time, and a person has it tried again
                number += 1

    return approve


def _is_open(flow_run_id: str) -> bool:
    """Whether a flow run may still go on: it waits, is at work or is suspended."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(flow_run_id)).state
        except ObjectNotFound:
            return False
    return state is not None and not state.is_final()


def _show(outcome: "Outcome", entry: dict[str, Any], home: Path) -> None:
    """The decision with its numbers, and beside it the run's win rates; each with a history by its key.

    A run that is retried after it decided has the numbers in the registry alone.
    """
    from tasks.retraining.proposal import decision_markdown, proposal_markdown

    title, facts = STATE_NAMES[outcome.event], _facts(entry)
    if outcome.proposal is None:
        text = decision_markdown(title, outcome.message, facts)
    else:
        text = proposal_markdown(outcome.proposal, title, facts)
    store_artifact(create_markdown_artifact, text, "retraining", outcome.message)
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
