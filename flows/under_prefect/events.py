"""What the pipeline tells people's own automations: Prefect events that are sent once, by an id of what they are about.

| event | resource | told when |
|---|---|---|
| `srpo.preferences.ingested` | `srpo.preferences.<fingerprint>` | an artifact of pairs was newly made |
| `srpo.policy.promoted` | `srpo.policy.<policy_id>` | a challenger won against the champion, or `srpo promote` was called |
| `srpo.policy.rejected` | `srpo.policy.<policy_id>` | a challenger did not win |
| `srpo.policy.rolled_back` | `srpo.policy.<policy_id>` | `srpo rollback` gave this champion's place to an earlier one |
| `srpo.run.failed` | `srpo.run.<run_id>` | a run failed or was ended, with its stage and reason |

An event is posted to the server and confirmed before `announce` returns: Prefect's own queue is lost with a process that a signal
ends. Without a server nothing happens, and a server that is away never stops the work.
"""

import logging
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from flows.endings import EXPECTED
from flows.inputs import HOME_VARIABLE, open_home

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

    from storage.artifact import Artifact

PREFERENCES_INGESTED = "srpo.preferences.ingested"
POLICY_PROMOTED = "srpo.policy.promoted"
POLICY_REJECTED = "srpo.policy.rejected"
POLICY_ROLLED_BACK = "srpo.policy.rolled_back"
RUN_FAILED = "srpo.run.failed"

NAMESPACE = UUID("40a24691-ba25-53a4-9732-da568c216f06")  # of the ids of this project's events
TIMEOUT_SECONDS = 10.0
logger = logging.getLogger("srpo")
_stages: set[str] = set()  # names of the stages that this process has called
_announced: set[UUID] = set()  # the server writes events down seconds after it took them


def announce(name: str, *, resource: str, payload: dict[str, Any], key: str, command: str | None = None) -> bool:
    """Send the event `name` about `resource` once: the same (name, key) gives the same event id, which is never sent twice.

    `payload` must be JSON; `command` names the command of srpo that tells it, None where a run does. Returns whether an event
    was sent now; False when it was sent before, without a server, or when the server could not be reached, which is logged.
    """
    if not _has_server():
        return False
    event_id = event_id_of(name, key)
    try:
        return _send_once(event_id, name, resource, payload, command)
    except Exception as error:  # noqa: BLE001  (whatever is wrong with the server, the work goes on)
        logger.warning("event %s about %s was not sent: %s", name, resource, error)
        return False


def tell_of_pairs(preferences: "Artifact", began: datetime, command: str | None = None) -> None:
    """Announce pairs that a stage made since it `began`, or that an earlier attempt of this flow run made and died.

    `command`: as `announce` takes it.
    """
    from prefect.context import FlowRunContext

    from storage.artifact import was_made_since
    from tasks.new_pairs import count_first_seen

    context = FlowRunContext.get()
    first_began = getattr(context.flow_run, "start_time", None) if context else None  # kept when a run is retried
    if not was_made_since(preferences, min(began, first_began or began)) or not preferences.counts["pairs"]:
        return
    home, name = preferences.path.parent.parent, preferences.fingerprint
    payload = {
        "fingerprint": name,
        "pairs": preferences.counts["pairs"],
        "new_pairs": count_first_seen(home, preferences),
        "domain": preferences.settings.get("domain"),
        "home": str(home),
    }
    announce(PREFERENCES_INGESTED, resource=f"srpo.preferences.{name}", payload=payload, key=f"{home}:{name}", command=command)


def tell_of_failure(flow: "Flow[Any, Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """State hook of every flow (on_failure, on_crashed): announce the failure, once for each attempt.

    Of a process that was killed, the worker tells, whose flow run is the one that it submitted: its count of attempts is behind.
    """
    from storage.runs import find_run

    message = state.message or ""
    stage, _, reason = message.partition(": ")
    is_of_stage = stage in _stages and state.is_failed()  # a crash was no stage's doing, nor is every colon one's
    facts = {"flow": flow.name, "flow_run_id": str(flow_run.id), "flow_run_name": flow_run.name, "state": state.name}
    facts |= {"message": message, "stage": stage if is_of_stage else None, "reason": reason if is_of_stage else message}
    home, run_id = str((flow_run.parameters or {}).get("home") or os.environ.get(HOME_VARIABLE, "")), str(flow_run.id)
    try:
        folder = open_home(home)
        home, record = str(folder), find_run(folder, run_id)
        run_id = record["run_id"] if record else run_id
    except (*EXPECTED, OSError) as error:  # a home or a record that nobody can use must not silence the event
        logger.warning("the record of flow run %s was not read: %s", flow_run.id, error)
    key = f"{flow_run.id}:{state.id}"
    announce(RUN_FAILED, resource=f"srpo.run.{run_id}", payload=facts | {"run_id": run_id, "home": home}, key=key)


def announce_decision(name: str, entry: dict[str, Any], home: Path, command: str | None = None) -> None:
    """Announce an entry of the registry about the policy that it is about. `command`: as `announce` takes it."""
    columns = ("entry", "event", "policy_id", "champion_id", "previous_champion_id", "by", "reason", "run_id", "cumulative_level")
    payload = {column: entry[column] for column in columns} | {"home": str(home)}
    announce(name, resource=f"srpo.policy.{entry['policy_id']}", payload=payload, key=f"{home}:{entry['key']}", command=command)


def know_stage(name: str) -> None:
    """`name` is that of a stage: where a failure's message begins with it, the event says so."""
    _stages.add(name)


def event_id_of(name: str, key: str) -> UUID:
    """The id of the event `name` for `key`."""
    return uuid5(NAMESPACE, f"{name}\n{key}")


def _has_server() -> bool:
    """Whether the settings name a server; Prefect is not imported for this."""
    if "prefect" in sys.modules:
        from prefect.settings import PREFECT_API_URL

        return bool(PREFECT_API_URL.value())
    from flows.server.environment import prefect_server

    return prefect_server() is not None


def _send_once(event_id: UUID, name: str, resource: str, payload: dict[str, Any], command: str | None) -> bool:
    from prefect.client.orchestration import get_client
    from prefect.events.filters import EventFilter, EventIDFilter
    from prefect.events.schemas.events import Event, Resource

    if event_id in _announced:
        return False
    with get_client(httpx_settings={"timeout": TIMEOUT_SECONDS}, sync_client=True) as client:
        if client.read_events(EventFilter(id=EventIDFilter(id=[event_id])), limit=1).total:
            return False
        about = Resource({"prefect.resource.id": resource, "prefect.resource.name": resource.rsplit(".", 1)[-1]})
        event = Event(id=event_id, event=name, resource=about, related=_related(command), payload=payload)
        client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()
    _announced.add(event_id)
    return True


def _related(command: str | None) -> list[Any]:
    """The flow run that tells, its deployment and its tags: the event stands on their pages and can be matched by them.

    Told by a command, the event can be matched by its name.
    """
    from prefect import runtime
    from prefect.events.schemas.events import RelatedResource

    run_id, deployment_id = runtime.flow_run.id, runtime.deployment.id
    found = [("prefect.flow-run", run_id, runtime.flow_run.name)] if run_id else []
    found += [("prefect.deployment", deployment_id, runtime.deployment.name)] if deployment_id else []
    found += [("prefect.tag", tag, tag) for tag in (runtime.flow_run.tags or []) if run_id]
    found += [("srpo.command", command, command)] if command else []
    return [
        RelatedResource(
            {
                "prefect.resource.id": f"{kind}.{ident}",
                "prefect.resource.role": kind.partition(".")[2],
                "prefect.resource.name": str(name or ident),
            }
        )
        for kind, ident, name in found
    ]
