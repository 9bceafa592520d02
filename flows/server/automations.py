"""The automations that mark runs nobody works on: without them a run whose process died stays `Running` for ever.

The server itself does not notice when a worker is killed, and a worker that is stopped kills its runs without telling it. Both
leave the run in its last state, where it holds its place in a queue and a concurrency limit. Marked as crashed, it gives them
free and can be retried. Only runs of deployments with the tag `srpo` are looked after: their deployments set the heartbeat.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.server.deployments import TAG
from flows.server.environment import HEARTBEAT_SECONDS

MISSED_BEATS = 3
PENDING_SECONDS = 600.0
HEARTBEAT = "prefect.flow-run.heartbeat"
# States of a run that a worker has taken and that has not begun.
STARTING = ("Pending", "Submitting", "InfrastructurePending")
# Of a run that was so when `srpo serve` began: from then on, too, its next sign is waited for (flows/server/left_runs.py).
LEFT = {StateType.RUNNING: "srpo.run.left-running", StateType.PENDING: "srpo.run.left-pending"}
SILENT, STRANDED = "srpo: a run gives no sign of life", "srpo: a run does not begin"
RETRY = "Press Retry: what is complete is kept, and training goes on from its last checkpoint."


class Windows(NamedTuple):
    """After how many seconds of silence a run is taken for dead."""

    running: float = MISSED_BEATS * HEARTBEAT_SECONDS
    pending: float = PENDING_SECONDS


def guards(windows: Windows = Windows()) -> list[AutomationCore]:  # noqa: B008  (immutable)
    """The automations an installation has to have."""
    silent = f"No sign of life for {windows.running:.0f} s: the run's process, its worker or their machine has died. {RETRY}"
    stranded = f"Not begun within {windows.pending / 60:.0f} min of being taken by a worker: the worker has died. {RETRY}"
    starting = [f"prefect.flow-run.{state}" for state in STARTING]
    return [
        _crash(SILENT, silent, after=(HEARTBEAT, LEFT[StateType.RUNNING]), seconds=windows.running),
        _crash(STRANDED, stranded, after=[*starting, LEFT[StateType.PENDING]], seconds=windows.pending),
    ]


def ensure_guards(client: SyncPrefectClient, windows: Windows = Windows()) -> None:  # noqa: B008
    """Make the automations, or mend those that are there: afterwards each is there once, enabled and as `guards` says."""
    for wanted in guards(windows):
        found = find_automations(client, wanted.name)
        for double in found[1:]:
            client.delete_automation(double.id)
        if not found:
            client.create_automation(wanted)
        elif not is_as_wanted(found[0], wanted):
            client.update_automation(found[0].id, wanted)


def find_automations(client: SyncPrefectClient, name: str) -> Sequence[Automation]:
    """All automations of exactly this name."""
    return [one for one in client.read_automations_by_name(name) if one.name == name]


def is_as_wanted(found: AutomationCore, wanted: AutomationCore) -> bool:
    """Whether an automation does what another does; ids and what the server adds do not count."""
    return _essence(found) == _essence(wanted)


def _essence(automation: AutomationCore) -> tuple[object, ...]:
    trigger = automation.trigger.model_dump(mode="json", exclude={"id"})
    actions = [action.model_dump(mode="json") for action in automation.actions]
    sets = ("after", "expect", "for_each")  # whose order is chance
    return automation.enabled, {**trigger, **{name: sorted(trigger.get(name) or []) for name in sets}}, actions


def _crash(name: str, message: str, after: Sequence[str], seconds: float) -> AutomationCore:
    """Crash a run about which nothing is heard for so long after one of the events `after`."""
    ours = [{"prefect.resource.id": f"prefect.tag.{TAG}"}, {"prefect.resource.role": "deployment"}]
    return AutomationCore(
        name=name,
        description="Made by `srpo serve`; it keeps runs from staying in a state for ever. See docs/prefect.md.",
        enabled=True,  # stated, so that an update of one that was switched off says it
        tags=[TAG],
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=[ResourceSpecification(one) for one in ours],
            after=set(after),
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )
