"""The scheduled retraining driven through under a Prefect server: nothing new, rejected, promoted, rolled back, approved.

Trainings are real and tiny (tests/retraining.py says why each outcome is no accident), the judge is a real HTTP server, and the
jobs of a launch are done in this process, which saves the seconds of their imports.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import ReceivedEvent
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent as ServerEvent
from prefect.states import Failed, Scheduled, State

from flows import retrain as retrain_flow
from flows import retraining
from flows.cli import main
from flows.ingest import ingest_pairs
from flows.retrain import retrain_on_new_data
from flows.retraining import Outcome
from srpo_core.errors import InputError
from srpo_core.settings.data import PreferenceSourceSettings
from storage.artifact import list_artifacts
from storage.registry import champion, read_registry
from storage.results_db import run_query
from storage.runs import read_runs
from storage.stored_queries import ask_query
from tasks.retraining.prompt_parts import is_confirmation, split_prompts
from tests.judge_server import JudgeServer
from tests.retraining import SmallWorld
from tests.stages import launches_here

ROOT = Path(__file__).resolve().parents[2]


class Story(NamedTuple):
    """What happened, step by step."""

    world: SmallWorld
    home: Path
    judge_url: str
    states: dict[str, State[Any]]


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    with pytest.MonkeyPatch.context() as patch, JudgeServer() as judge_server:
        launches_here(patch)
        patch.setenv("JUDGE_KEY", "secret")
        yield judge_server


@pytest.fixture(scope="module")
def story(server, judge, tmp_path_factory) -> Story:
    folder = tmp_path_factory.mktemp("retraining")
    world, home = SmallWorld(folder, num_prompts=80), folder / "home"
    states: dict[str, State[Any]] = {}

    def run(name: str, num_steps: int) -> None:
        states[name] = retrain_on_new_data(world.settings(judge.url, num_steps=num_steps), str(home), return_state=True)

    world.add_pairs("week-1", 64)
    run("first", 14)
    run("nothing new", 14)
    world.add_pairs("week-2", 128, swapped=True)
    run("worse", 14)
    run("worse again", 14)
    world.add_pairs("week-3", 400)
    run("better", 60)
    assert main(["rollback", "--reason", "complaints", "--home", str(home)]) == 0
    run("after the rollback", 60)
    return Story(world, home, judge.url, states)


@pytest.fixture
def client(story) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as connection:
        yield connection


def events_of(client: SyncPrefectClient, home: Path, name: str, count: int) -> list[ReceivedEvent]:
    """The events of that name about a home, `count` of them or more: the server writes them down seconds after it took them.

    Other tests may tell of other homes on the same server.
    """
    until, wanted = time.monotonic() + 20, EventFilter(event=EventNameFilter(name=[name]))
    while True:
        found = [one for one in client.read_events(wanted, limit=50).events if one.payload.get("home") == str(home)]
        if len(found) >= count or time.monotonic() > until:
            return found
        time.sleep(0.2)


def test_each_retraining_ends_in_the_state_that_says_what_it_did(story):
    named = {step: state.name for step, state in story.states.items()}
    assert named == {
        "first": "Promoted",
        "nothing new": "NothingNew",
        "worse": "Rejected",
        "worse again": "NothingNew",
        "better": "Promoted",
        "after the rollback": "NothingNew",
    }
    assert all(state.is_completed() for state in story.states.values())


def test_the_message_of_a_state_gives_the_numbers_or_names_the_earlier_decision(story):
    said = {step: state.message for step, state in story.states.items()}
    assert "against the reference" in said["first"] and "there being no champion" in said["first"]
    assert "0 of 64 pairs are new since champion" in said["nothing new"]
    assert "does not lie above the margin" in said["worse"] and "refused: " in said["worse"]
    assert "were tried before, see entry 3" in said["worse again"] and "rejected" in said["worse again"]
    assert "at look 2 at the confirmation prompts against champion" in said["better"]
    assert "were tried before, see entry 5" in said["after the rollback"] and "promoted" in said["after the rollback"]


def test_the_registry_has_the_history_by_sql(story):
    assert main(["publish", "--home", str(story.home)]) == 0
    sql = 'SELECT entry, event, policy_id, champion_id, "by", comparison, cumulative_level FROM registry ORDER BY entry'
    rows = run_query(story.home, sql).to_pylist()
    events = [row["event"] for row in rows]
    assert events == ["looked", "promoted", "rejected", "looked", "promoted", "rolled_back"]
    first, worse, better = rows[1]["policy_id"], rows[2]["policy_id"], rows[4]["policy_id"]
    assert len({first, worse, better}) == 3
    assert [row["champion_id"] for row in rows] == [None, first, first, first, better, first]
    assert [row["comparison"] for row in rows] == [1, 1, None, 2, 2, None]
    assert [row["by"] for row in rows] == ["retrain"] * 5 + ["command"]
    first_level = 0.05 * 6 / math.pi**2
    assert rows[-1]["cumulative_level"] == pytest.approx(first_level * 1.25)
    assert run_query(story.home, "SELECT policy_id FROM champions WHERE until IS NULL").to_pylist() == [{"policy_id": first}]


def test_a_decision_keeps_its_evidence_and_its_run(story):
    entry = read_registry(story.home)[2]
    evidence = json.loads(entry["evidence"])
    assert evidence["screening"]["difference"]["estimate"] < -0.3 and evidence["confirmation"] is None
    assert {row["role"] for row in evidence["curves"]["screening"]} == {"challenger", "champion"}
    assert entry["run_id"] in {run["run_id"] for run in read_runs(story.home)}
    assert len(read_runs(story.home)) == 3  # those that found nothing new left no run


def test_the_confirmation_prompts_were_looked_at_for_challengers_that_passed_the_screening_alone(story):
    entries = read_registry(story.home)
    worse, better = entries[2]["policy_id"], entries[4]["policy_id"]
    sets = {one.fingerprint: one.settings["name"] for one in list_artifacts(story.home, "prompts")}
    seen = {
        (one.manifest["parents"]["policy"]["fingerprint"], sets[one.manifest["parents"]["prompts"]["fingerprint"]])
        for one in list_artifacts(story.home, "completions")
    }
    assert (worse, "id:screening") in seen and (worse, "id:confirmation") not in seen
    assert (better, "id:confirmation") in seen


def test_the_two_parts_are_sets_of_their_own_in_sql(story):
    rows = run_query(story.home, "SELECT DISTINCT eval_set FROM win_rates ORDER BY eval_set").to_pylist()
    assert [row["eval_set"] for row in rows] == ["id:confirmation", "id:screening"]


@pytest.mark.parametrize("question", ["worst_prompts", "prompts_getting_worse", "largest_disagreements", "judge_against_gold"])
def test_stored_questions_about_single_prompts_show_none_that_are_kept_for_confirmation(story, question):
    assert "id:confirmation" not in ask_query(story.home, question)["eval_set"].to_pylist()
    if question == "worst_prompts":
        asked = ask_query(story.home, question, {"eval_set": "id:confirmation"})["eval_set"].to_pylist()
        assert asked and set(asked) == {"id:confirmation"}  # who names them has decided to look


def test_reference_rows_are_computed_for_new_pairs_only(story):
    computed = [one.counts["pairs_computed"] for one in list_artifacts(story.home, "reference")]
    assert computed == [64, 128, 400]


def test_the_decision_stands_in_the_ui_with_curves_guards_and_the_sql(story, client):
    texts = [
        one.data for one in client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["retraining"])))
    ]
    assert any("# Promoted" in text for text in texts) or "# Promoted" in texts[0]
    text = next(text for text in texts if "# Promoted" in text)
    assert "## Screening" in text and "## Confirmation" in text and "| length on id:screening |" in text
    assert "| id:confirmation | challenger |" in text and "SELECT * FROM registry WHERE entry" in text


def decided_before(story: Story) -> Outcome:
    """What a run finds that is retried after it has decided."""
    entry = read_registry(story.home)[4]
    return Outcome("promoted", f"Promoted {entry['policy_id']}: {entry['reason']}", entry["run_id"], None, entry)


def test_a_run_that_is_retried_after_its_decision_shows_it_again(story, client, monkeypatch):
    monkeypatch.setattr(retraining, "retrain", lambda *_, **__: decided_before(story))
    state = retrain_on_new_data(story.world.settings(story.judge_url, num_steps=60), str(story.home), return_state=True)
    wanted = ArtifactFilter(
        key=ArtifactFilterKey(any_=["retraining"]), flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
    )
    (page,) = client.read_artifacts(artifact_filter=wanted)
    assert page.data.startswith("# Promoted") and "`SELECT * FROM registry WHERE entry = 5`" in page.data


def test_a_server_that_refuses_the_page_neither_fails_the_decision_nor_silences_it(story, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server is away")

    told: list[str] = []
    monkeypatch.setattr(retraining, "retrain", lambda *_, **__: decided_before(story))
    monkeypatch.setattr(retrain_flow, "create_markdown_artifact", refuse)
    monkeypatch.setattr(retrain_flow, "announce_decision", lambda name, *_: told.append(name))
    state = retrain_on_new_data(story.world.settings(story.judge_url, num_steps=60), str(story.home), return_state=True)
    assert (state.name, told) == ("Promoted", ["srpo.policy.promoted"])


def test_promotions_and_rejections_are_told_as_events(story, client):
    promoted = {event.resource.id for event in events_of(client, story.home, "srpo.policy.promoted", 2)}
    entries = read_registry(story.home)
    assert {f"srpo.policy.{entries[1]['policy_id']}", f"srpo.policy.{entries[4]['policy_id']}"} <= promoted
    (rejected,) = events_of(client, story.home, "srpo.policy.rejected", 1)
    assert rejected.payload["reason"] == entries[2]["reason"]
    assert [one.payload["event"] for one in events_of(client, story.home, "srpo.policy.rolled_back", 1)] == ["rolled_back"]


def test_commands_take_the_word_champion_and_tell_who_it_is(story, capsys):
    holder = champion(story.home)
    assert main(["champion", "--json", "--home", str(story.home)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["champion"]["champion_id"], len(shown["entries"])) == (holder, 6)
    assert (
        main(["revise", "--policy", "champion", "--prompt", "1 fire report", "--revisions", "1", "--home", str(story.home)]) == 0
    )
    assert "revision 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["promote", "champion", "--reason", "again"], "expected another policy than the present champion"),
        (["promote", "champion", "--reason", " "], "expected a reason"),
        (["rollback", "--to", "99", "--reason", "x"], "expected the number of an entry between 1 and 6, found 99"),
    ],
)
def test_a_wrong_command_changes_nothing_and_says_why(story, capsys, arguments, sentence):
    assert main([*arguments, "--home", str(story.home)]) == 2
    assert sentence in capsys.readouterr().err
    assert len(read_registry(story.home)) == 6


def test_parts_are_disjoint_by_cluster_and_together_the_whole_set(story):
    (whole,) = [one for one in list_artifacts(story.home, "prompts") if one.settings["name"] == "id"]
    parts = [split_prompts(whole, part, 0.3, story.home) for part in ("screening", "confirmation")]
    clusters = [{row["cluster_id"] for row in one.rows()} for one in parts]
    assert not clusters[0] & clusters[1]
    assert clusters[0] | clusters[1] == {row["cluster_id"] for row in whole.rows()}
    assert all(is_confirmation(name, 0.3) for name in clusters[1]) and not any(is_confirmation(n, 0.3) for n in clusters[0])
    assert 10 <= len(clusters[1]) <= 40  # of 80
    with pytest.raises(InputError, match="expected prompts of evaluation set id in its confirmation part, found none"):
        split_prompts(whole, "confirmation", 1e-9, story.home)


def deployed_run(client: SyncPrefectClient, flow: Any, name: str, parameters: dict[str, Any]) -> FlowRun:
    """A run of a deployment, as the scheduler makes them."""
    deployment = client.create_deployment(flow_id=client.create_flow(flow), name=name)
    return client.create_flow_run_from_deployment(deployment, parameters=parameters)


def work_on(client: SyncPrefectClient, flow: Any, flow_run: FlowRun) -> State[Any]:
    """What a worker's process does with a run; gives the state it ends in."""
    try:
        run_flow(flow, flow_run=client.read_flow_run(flow_run.id), parameters=flow_run.parameters, return_type="state")
    except Pause:
        pass  # the process of a suspended run ends
    state = client.read_flow_run(flow_run.id).state
    assert state is not None
    return state


def asking(story: Story, seed: int) -> dict[str, Any]:
    """Parameters of a retraining that is better again, and waits for a person; another seed is another challenger."""
    settings = story.world.settings(story.judge_url, num_steps=60, promotion={"require_approval": True})
    training = settings.pipeline.training.model_copy(update={"seed": seed})
    pipeline = settings.pipeline.model_copy(update={"training": training})
    return {"settings": settings.model_copy(update={"pipeline": pipeline}).model_dump(mode="json"), "home": str(story.home)}


@pytest.mark.parametrize(
    ("decision", "event", "seed"),
    [pytest.param("reject", "rejected", 2, marks=pytest.mark.slow), ("promote", "promoted", 1)],
)
def test_a_person_decides_and_waiting_takes_neither_a_process_nor_another_look(story, client, decision, event, seed):
    before = len(read_registry(story.home))
    flow_run = deployed_run(client, retrain_on_new_data, "weekly-retrain", asking(story, seed))
    state = work_on(client, retrain_on_new_data, flow_run)
    assert (state.name, state.is_paused()) == ("Suspended", True)
    (look,) = read_registry(story.home)[before:]
    assert look["event"] == "looked"
    assert read_runs(story.home)[-1]["state"] == "suspended"
    monday = work_on(
        client, retrain_on_new_data, deployed_run(client, retrain_on_new_data, "weekly-retrain", asking(story, seed))
    )
    assert monday.name == "NothingNew" and f"of flow run {flow_run.id} is not decided on yet" in monday.message
    if decision == "reject":  # nobody answers in time, and a person has the run tried again: it asks again, and decides nothing
        client.set_flow_run_state(flow_run.id, Failed(message="The flow was paused and never resumed."), force=True)
        client.set_flow_run_state(flow_run.id, Scheduled(), force=True)
        assert work_on(client, retrain_on_new_data, flow_run).name == "Suspended"
        assert len(read_registry(story.home)) == before + 1
    story.world.add_pairs(f"while waiting {seed}", 16, swapped=True)  # waits for the next run
    runs = len(read_runs(story.home))
    client.resume_flow_run(flow_run.id, run_input={"decision": decision, "note": "seen by hand"})
    state = work_on(client, retrain_on_new_data, flow_run)
    assert state.name == event.capitalize()
    entry = read_registry(story.home)[-1]
    assert len(read_registry(story.home)) == before + 2  # the look and the decision
    assert (entry["event"], entry["by"], entry["comparison"]) == (event, "approval", look["comparison"])
    assert "seen by hand" in entry["reason"] and entry["prefect_run"] == str(flow_run.id)
    assert len(read_runs(story.home)) == runs  # the same run, gone on with
    assert {run["state"] for run in read_runs(story.home) if run["prefect_run"] == str(flow_run.id)} == {"completed"}
    assert (champion(story.home) == entry["policy_id"]) is (event == "promoted")


def test_approval_without_a_deployment_fails_before_any_work(story):
    asked = asking(story, 3)
    state = retrain_on_new_data(asked["settings"], asked["home"], return_state=True)
    assert state.is_failed() and "expected a deployment's run to suspend" in state.message


def test_new_pairs_start_a_retraining_when_ingest_tells_of_them_and_not_when_a_retraining_does(story, client, tmp_path):
    """The events are those of real runs, the condition is that of prefect.yaml, and the server's own code compares them."""
    config = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    (given,) = [trigger for one in config["deployments"] for trigger in one.get("triggers", [])]
    trigger = EventTrigger.model_validate({name: value for name, value in given.items() if name not in ("name", "parameters")})
    of_retraining = events_of(client, story.home, "srpo.preferences.ingested", 3)
    world = SmallWorld(tmp_path)
    world.add_pairs("new", 8)
    source = PreferenceSourceSettings(paths=[str(tmp_path / "pairs")]).model_dump(mode="json")
    flow_run = deployed_run(client, ingest_pairs, "ingest", {"source": source, "home": str(tmp_path / "home")})
    assert work_on(client, ingest_pairs, flow_run).is_completed()
    (ingested,) = events_of(client, tmp_path / "home", "srpo.preferences.ingested", 1)
    assert trigger.covers(ServerEvent.model_validate(ingested.model_dump()))
    assert of_retraining  # a retraining reads the new files itself
    assert not any(trigger.covers(ServerEvent.model_validate(event.model_dump())) for event in of_retraining)
