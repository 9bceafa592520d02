"""The stages of a retraining without Prefect: where training starts, sets without gold, and being killed half-way.

The worlds and outcomes are those of tests/retraining.py; the jobs of a launch are done in this process.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

from flows import retraining
from flows.retraining import Approval, retrain
from srpo_core.errors import InputError, WorkFailed
from srpo_core.settings.retraining import RetrainSettings
from storage.artifact import Artifact, find_artifact
from storage.registry import champion, read_registry
from storage.runs import read_runs
from tasks.models import model_folder
from tasks.retraining.proposal import Proposal
from tests.judge_server import JudgeServer
from tests.retraining import SmallWorld
from tests.stages import Launches, launches_here


class Begun(NamedTuple):
    """A home with a champion that is better than the reference, and new pairs."""

    world: SmallWorld
    home: Path
    url: str
    launches: Launches

    def settings(self, **options: Any) -> RetrainSettings:
        return self.world.settings(self.url, **options)


def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    folder = tmp_path_factory.mktemp("retraining")
    world = SmallWorld(folder, num_prompts=80)
    with pytest.MonkeyPatch.context() as patch, JudgeServer() as server:
        patch.setenv("JUDGE_KEY", "secret")
        found = Begun(world, folder / "home", server.url, launches_here(patch))
        world.add_pairs("week-1", 64)
        assert retrain(found.settings(num_steps=14), found.home, as_it_is).event == "promoted"
        world.add_pairs("week-2", 400)
        yield found


def policy(home: Path, policy_id: str) -> Artifact:
    found = find_artifact(home, "policies", policy_id)
    assert found is not None
    return found


def killed_at(name: str, call: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Stages of which the `call`-th call of `name` never returns: the process is ended."""
    calls: list[str] = []

    def stage(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            calls.append(function.__name__)
            if calls.count(name) == call and function.__name__ == name:
                raise KeyboardInterrupt
            return function(*args, **options)

        return run

    return stage


def test_an_answer_that_never_comes_is_on_record_and_other_prompts_by_then_are_another_look(begun):
    """What a person is asked about is what is decided on: with other prompts it is neither the same table nor the same look."""
    settings, before = begun.settings(num_steps=60, promotion={"require_approval": True}), len(read_registry(begun.home))
    settings = settings.model_copy(
        update={
            "pipeline": settings.pipeline.model_copy(
                update={"training": settings.pipeline.training.model_copy(update={"seed": 1})}
            )
        }
    )

    def nobody(proposal: Proposal, run_id: str) -> Approval:
        raise WorkFailed("expected an answer, found none")

    with pytest.raises(WorkFailed):
        retrain(settings, begun.home, as_it_is, approve=nobody, prefect_run="flow run 0")
    (record,) = [run for run in read_runs(begun.home) if run["prefect_run"] == "flow run 0"]
    assert (record["state"], record["failure"]) == ("failed", "expected an answer, found none")
    assert {"preferences", "policies", "games"} <= {one["stage"] for one in record["stages"]}
    begun.world.add_prompts(10)
    outcome = retrain(settings, begun.home, as_it_is, approve=lambda *_: Approval(False, "no"), prefect_run="flow run 0")
    entries = read_registry(begun.home)[before:]
    assert [row["event"] for row in entries] == ["looked", "looked", "rejected"]
    assert entries[0]["policy_id"] == entries[1]["policy_id"] and entries[1]["level"] < entries[0]["level"]
    assert outcome.entry == entries[2] and entries[2]["comparison"] == entries[1]["comparison"]
    assert {run["state"] for run in read_runs(begun.home) if run["prefect_run"] == "flow run 0"} == {"completed"}


def test_a_decision_of_another_run_meanwhile_is_not_taken_for_ones_own(begun, monkeypatch):
    taken = {"entry": 9, "event": "promoted", "prefect_run": "another"}
    told: dict[str, Any] = {}
    monkeypatch.setattr(retraining, "record_decision", lambda *_, **against: told.update(against) or taken)
    begun.world.add_pairs("meanwhile", 8, swapped=True)
    with pytest.raises(InputError, match="expected no decision on this attempt yet, found entry 9 of the registry, promoted"):
        retrain(begun.settings(num_steps=2), begun.home, as_it_is)
    assert told == {"against": champion(begun.home)}


def test_killed_while_it_looked_at_the_confirmation_it_goes_on_and_takes_no_second_look(begun):
    """The third and fourth judgings are those of the confirmation; a killed publication comes after the decision."""
    settings, before = begun.settings(num_steps=60), len(read_registry(begun.home))
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, begun.home, killed_at("judge_completions", 3), prefect_run="flow run 1")
    (look,) = read_registry(begun.home)[before:]
    begun.launches.names()
    with pytest.raises(KeyboardInterrupt):
        retrain(settings, begun.home, killed_at("publish_results", 2), prefect_run="flow run 1")
    assert begun.launches.names() == []  # neither trained nor written again
    decided = read_registry(begun.home)[before:]
    assert [row["event"] for row in decided] == ["looked", "promoted"]
    assert decided[1]["comparison"] == look["comparison"]
    outcome = retrain(settings, begun.home, as_it_is, prefect_run="flow run 1")
    assert (outcome.event, outcome.entry) == ("promoted", decided[1])  # the run ends as what it decided
    assert retrain(settings, begun.home, as_it_is, prefect_run="flow run 2").event == "nothing_new"
    assert len(read_registry(begun.home)) == before + 2


def test_from_the_champion_training_begins_with_its_weights_against_the_same_frozen_reference(begun):
    holder = champion(begun.home)
    begun.world.add_pairs("week-3", 16)
    begun.launches.jobs.clear()
    outcome = retrain(begun.settings(num_steps=2, start_from="champion"), begun.home, as_it_is)
    assert outcome.entry is not None and holder is not None
    parents = policy(begun.home, outcome.entry["policy_id"]).manifest["parents"]
    assert parents["start"]["fingerprint"] == holder
    assert parents["reference"] == policy(begun.home, holder).manifest["parents"]["reference"]
    (job,) = [one for one in begun.launches.jobs if getattr(one, "kind", "") == "preference"]
    assert job.model_folder == str(model_folder(policy(begun.home, holder)))


def test_a_champion_of_another_reference_is_no_start(begun):
    begun.world.add_pairs("week-4", 16)
    other = begun.settings(num_steps=2, start_from="champion")
    supervised = other.pipeline.supervised
    assert supervised is not None
    pipeline = other.pipeline.model_copy(update={"supervised": supervised.model_copy(update={"num_steps": 3})})
    with pytest.raises(InputError, match="expected a champion trained against the reference .* set start_from: reference"):
        retrain(other.model_copy(update={"pipeline": pipeline}), begun.home, as_it_is)


def test_sets_without_gold_are_played_head_to_head(begun, tmp_path):
    """Challenger against champion directly: with h of a prompt's two orders won, the difference is h - 1/2."""
    rows = [json.loads(line) for line in (begun.world.folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows), encoding="utf-8")
    begun.world.add_pairs("week-5", 600, swapped=True)
    settings = begun.settings(num_steps=24)
    (given,) = settings.pipeline.evaluation
    evaluation = [given.model_copy(update={"path": str(path), "name": "open"})]
    pipeline = settings.pipeline.model_copy(update={"evaluation": evaluation})
    outcome = retrain(settings.model_copy(update={"pipeline": pipeline}), begun.home, as_it_is)
    assert outcome.event == "rejected" and outcome.proposal is not None
    assert outcome.proposal.screening.difference.estimate < -0.15
    curve = outcome.proposal.curves["screening"]
    assert {(row["role"], row["opponent"]) for row in curve} == {("challenger", "champion")}
    rate = next(row["win_rate"] for row in curve if row["revision_index"] == 1)
    assert outcome.proposal.screening.difference.estimate == pytest.approx(rate - 0.5)


def test_fewer_new_pairs_than_asked_for_are_nothing_new(begun):
    begun.world.add_pairs("week-6", 5)
    found = retrain(begun.settings(min_new_pairs=10**6), begun.home, as_it_is)
    assert found.event == "nothing_new" and "fewer than min_new_pairs 1000000" in found.message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pipeline": {"methods": ["srpo", "dpo"]}}, "expected exactly one method in pipeline.methods"),
        ({"pipeline": {"equal_compute": {}}}, "expected no pipeline.equal_compute"),
        ({"promotion": {"revision_index": 2}}, "expected promotion.revision_index of at most"),
    ],
)
def test_settings_that_a_retraining_cannot_use_are_refused(tmp_path, change, sentence):
    values = SmallWorld(tmp_path).settings("http://127.0.0.1:9/v1").model_dump()
    for section, inner in change.items():
        values[section] |= inner
    with pytest.raises(ValidationError, match=sentence):
        RetrainSettings.model_validate(values)
