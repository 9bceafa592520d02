"""Events that commands tell, and which of them start a retraining."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent, Resource
from prefect.settings import PREFECT_API_URL

from flows.cli import main
from flows.ingest import ingest_pairs
from flows.under_prefect import asset_events, events, run_tags
from storage.artifact import list_artifacts
from storage.registry import read_registry
from storage.schemas import PREFERENCES
from tests.flows.test_failures import WRITTEN_DOWN_SECONDS, events_about, pairs_file, told_of_pairs
from tests.homes import put, put_policy
from tests.small_training import pair_rows
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def told_server(server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared server, as a command finds it."""
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))


def told_by(*related: tuple[str, str]) -> ReceivedEvent:
    """An event of new pairs, related to resources of these roles and names."""
    others = [
        {"prefect.resource.id": f"x.{name}", "prefect.resource.role": role, "prefect.resource.name": name}
        for role, name in related
    ]
    about = Resource({"prefect.resource.id": "srpo.preferences.abc"})
    facts: dict[str, Any] = {"occurred": "2026-01-05T04:00:00Z", "received": "2026-01-05T04:00:01Z", "id": uuid4()}
    return ReceivedEvent(event=events.PREFERENCES_INGESTED, resource=about, related=others, payload={}, **facts)


def test_a_retraining_starts_for_pairs_of_the_deployment_and_of_the_command_and_not_for_its_own() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    (given,) = next(one for one in deployments if one["name"] == "weekly-retrain")["triggers"]
    trigger = EventTrigger.model_validate({name: value for name, value in given.items() if name not in ("type", "name")})
    run = ("flow-run", "curious-cat")
    assert trigger.covers(told_by(run, ("deployment", "ingest"), ("tag", "srpo")))
    assert trigger.covers(told_by(("command", "ingest")))
    assert not trigger.covers(told_by(run, ("deployment", "weekly-retrain"), ("tag", "srpo")))
    assert not trigger.covers(told_by(run))
    assert not trigger.covers(told_by(run, ("deployment", "demo"), ("tag", "ingest")))


def test_the_ingest_command_tells_of_new_pairs_once(told_server: None, tmp_path: Path) -> None:
    home, file = tmp_path / "home", pairs_file(tmp_path, 1, 2, 3)
    for _ in range(2):  # the second finds all complete
        assert main(["ingest", str(file), "--domain", "chat", "--home", str(home)]) == 0
    ingest_pairs({"paths": [str(file)], "domain": "chat"}, str(home))  # type: ignore[arg-type]
    (artifact,) = list_artifacts(home, "preferences")
    with get_client(sync_client=True) as client:
        (event,) = wait_for(lambda: told_of_pairs(client, artifact.fingerprint, home), WRITTEN_DOWN_SECONDS)
    assert {name: event.payload[name] for name in ("pairs", "new_pairs", "domain", "home")} == {
        "pairs": 3,
        "new_pairs": 3,
        "domain": "chat",
        "home": str(home),
    }
    assert [(one.role, one.name) for one in event.related] == [("command", "ingest")]


def test_the_same_pairs_are_new_to_each_home(told_server: None, tmp_path: Path) -> None:
    file, homes = pairs_file(tmp_path, 7, 8), [str(tmp_path / name) for name in ("a", "b")]
    for home in homes:
        assert main(["ingest", str(file), "--domain", "chat", "--home", home]) == 0
    (artifact,) = list_artifacts(Path(homes[0]), "preferences")
    with get_client(sync_client=True) as client:

        def both() -> list[ReceivedEvent]:
            found: list[ReceivedEvent] = events_about(client, events.PREFERENCES_INGESTED, artifact.fingerprint)
            return found if len(found) == 2 else []

        assert sorted(one.payload["home"] for one in wait_for(both, WRITTEN_DOWN_SECONDS)) == homes


def test_a_promotion_and_a_rollback_by_hand_are_told(told_server: None, tmp_path: Path) -> None:
    policies = [put_policy(tmp_path, name, "srpo", {}, seed=seed) for seed, name in enumerate(("first", "second"))]
    for one in policies:
        assert main(["promote", one.fingerprint, "--reason", "a test", "--home", str(tmp_path)]) == 0
    assert main(["rollback", "--reason", "worse after all", "--home", str(tmp_path)]) == 0
    second = policies[1].fingerprint
    assert [row["event"] for row in read_registry(tmp_path)] == ["promoted", "promoted", "rolled_back"]
    with get_client(sync_client=True) as client:
        (event,) = wait_for(lambda: events_about(client, events.POLICY_ROLLED_BACK, second), WRITTEN_DOWN_SECONDS)
        (promoted,) = events_about(client, events.POLICY_PROMOTED, second)
    assert event.payload["champion_id"] == policies[0].fingerprint
    assert event.payload["reason"] == "worse after all" and promoted.payload["champion_id"] == second
    assert {"run_id", "cumulative_level", "home"} <= event.payload.keys() == promoted.payload.keys()


def test_each_death_of_a_run_is_told_and_blames_no_stage(server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker tells of a process that was killed, and knows the run only as it submitted it."""
    sent: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(events, "announce", lambda name, *, resource, payload, key: sent.append((key, payload)))
    run: Any = type("Run", (), {"id": uuid4(), "name": "r", "run_count": 1, "parameters": {"home": str(tmp_path)}})
    killed = [
        State[Any](id=uuid4(), type=StateType.CRASHED, message="Process exited with status code: -9. Killed.") for _ in "ab"
    ]
    for state in killed:
        events.tell_of_failure(ingest_pairs, run, state)
    assert len({key for key, _ in sent}) == 2
    assert [payload["stage"] for _, payload in sent] == [None, None]
    assert json.dumps(sent[0][1]) and sent[0][1]["reason"] == killed[0].message


@pytest.mark.parametrize("home", ["s3://bucket/home", "torn"])
def test_a_home_that_nobody_can_read_does_not_silence_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "torn" / "runs").mkdir(parents=True)
    (tmp_path / "torn" / "runs" / "x.json").write_text("{")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "announce", lambda name, *, resource, payload, key: sent.append(payload))
    asked = {"home": home if "://" in home else str(tmp_path / home)}
    run: Any = type("Run", (), {"id": uuid4(), "name": "r", "run_count": 1, "parameters": asked})
    events.tell_of_failure(ingest_pairs, run, State[Any](type=StateType.FAILED, message="no room left"))
    assert [(one["home"], one["run_id"], one["message"]) for one in sent] == [(asked["home"], str(run.id), "no room left")]


def test_pairs_that_an_attempt_made_which_died_are_told_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(events, "announce", lambda name, **facts: told.append(facts["key"]))
    pairs = put(tmp_path, "preferences", {"part": (pair_rows(2), PREFERENCES)}, counts={"pairs": 2})
    made, five_minutes = datetime.fromisoformat(pairs.manifest["created_at"]), timedelta(minutes=5)
    events.tell_of_pairs(pairs, made + five_minutes)
    assert not told, "another run made them"
    run = SimpleNamespace(flow_run=SimpleNamespace(start_time=made - five_minutes))
    monkeypatch.setattr("prefect.context.FlowRunContext.get", lambda: run)
    events.tell_of_pairs(pairs, made + five_minutes)
    assert told == [f"{tmp_path}:{pairs.fingerprint}"]


def test_what_a_run_tells_is_related_to_its_deployment_which_automations_match(monkeypatch: pytest.MonkeyPatch) -> None:
    run, deployment = SimpleNamespace(id="r", name="cat", tags=["srpo"]), SimpleNamespace(id="d", name="ingest")
    monkeypatch.setattr("prefect.runtime", SimpleNamespace(flow_run=run, deployment=deployment))
    related = [(one.role, one.name) for one in events._related(None)]
    assert related == [("flow-run", "cat"), ("deployment", "ingest"), ("tag", "srpo")]


def test_an_artifact_that_was_there_is_referenced_and_a_new_one_names_as_many_parents_as_the_server_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(asset_events, "emit_event", lambda name, **facts: told.append((name, facts)))
    parents = {f"source-{number:05}": put(tmp_path, "sources", {}, settings={"number": number}) for number in range(92)}
    merged = put(tmp_path, "preferences", {}, parents=parents)
    made = datetime.fromisoformat(merged.manifest["created_at"])
    asset_events.emit_assets(merged, made + timedelta(minutes=5))
    assert [name for name, _ in told] == [asset_events.REFERENCED]
    told.clear()
    asset_events.emit_assets(merged, made)
    (event,) = (facts for name, facts in told if facts["resource"]["prefect.resource.id"].startswith("srpo://preferences/"))
    assert (len(event["related"]), event["payload"]["parents"]) == (90, 92)


def test_a_retraining_says_so_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"settings": {"pipeline": {"name": "weekly", "methods": ["dpo"]}}}
    monkeypatch.setattr(run_tags, "runtime", SimpleNamespace(flow_run=SimpleNamespace(parameters=parameters)))
    assert run_tags.name_run() == "retrain weekly: dpo on newsroom"
