"""The generation stage: what is missing in one launch, in the order of the prompts, whatever happened on the way."""

from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import WorkFailed
from srpo_core.settings.model import GenerationSettings
from srpo_core.workers import generate
from storage.artifact import Artifact
from storage.schemas import COMPLETIONS
from tasks import generation
from tasks.generation import generate_completions
from tests.small_training import SETTINGS_OF_CHAINS
from tests.stages import RESOURCES, Launches, launches_here, put_prompt_set, reference_policy


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    return launches_here(monkeypatch)


class Setting:
    """Two policies and two prompt sets."""

    def __init__(self, tmp_path: Path, home: Path) -> None:
        self.home = home
        (first, self.model), (second, _) = (reference_policy(tmp_path, home, seed) for seed in (0, 1))
        self.policies = [first, second]
        self.prompts = [put_prompt_set(home, 5, "one"), put_prompt_set(home, 3, "two")]

    def generate(
        self, settings: GenerationSettings = SETTINGS_OF_CHAINS, resources: Any = RESOURCES, **options: Any
    ) -> list[Artifact]:
        values = {"policies": self.policies, "prompts": self.prompts, "model": self.model, "home": self.home} | options
        return generate_completions(values.pop("policies"), values.pop("prompts"), settings, resources=resources, **values)


def test_every_policy_answers_every_set_in_one_launch(tmp_path: Path, launches: Launches) -> None:
    setting = Setting(tmp_path, tmp_path / "home")
    found = setting.generate()
    assert [a.manifest["parents"]["policy"]["fingerprint"] for a in found] == [
        p.fingerprint for p in setting.policies for _ in range(2)
    ]
    assert [a.manifest["parents"]["prompts"]["fingerprint"] for a in found] == [p.fingerprint for p in setting.prompts] * 2
    assert len(launches.names()) == 4
    assert [a.counts["completions"] for a in found] == [5 * 6, 3 * 6] * 2
    assert all(sum(n for name, n in a.counts.items() if name.startswith("finish:")) == a.counts["completions"] for a in found)
    assert setting.generate() == found and not launches.names()


def test_rows_are_in_the_order_of_prompts_samples_and_revisions(tmp_path: Path, launches: Launches) -> None:
    setting = Setting(tmp_path, tmp_path / "home")
    artifact = setting.generate()[0]
    places = [(row["prompt_id"], row["sample_index"], row["revision_index"]) for row in artifact.read(COMPLETIONS).to_pylist()]
    assert places == [(p["prompt_id"], s, k) for p in setting.prompts[0].rows() for s in (0, 1) for k in (0, 1, 2)]
    assert not list(artifact.path.glob("batch-*")), "what the parts were joined from is gone"


def test_batches_do_not_change_the_content(tmp_path: Path, launches: Launches) -> None:
    digests = []
    for name, size in (("a", 1), ("b", 64)):
        setting = Setting(tmp_path / name, tmp_path / name / "home")
        options: dict[str, Any] = {"resources": RESOURCES.model_copy(update={"generation_batch_size": size})}
        policy, prompts = setting.policies[:1], setting.prompts[:1]
        digests.append(
            [
                a.read(COMPLETIONS).drop_columns(["policy_id", "completion_id", "parent_id"])
                for a in setting.generate(policies=policy, prompts=prompts, **options)
            ]
        )
    assert digests[0] == digests[1]


def test_another_setting_or_policy_is_another_artifact(tmp_path: Path, launches: Launches) -> None:
    setting = Setting(tmp_path, tmp_path / "home")
    known = {a.fingerprint for a in setting.generate()}
    for change in (
        {"temperature": 0.5},
        {"seed": 1},
        {"top_p": 0.9},
        {"num_revisions": 1},
        {"max_new_tokens": 5},
        {"num_samples": 1},
    ):
        found = {a.fingerprint for a in setting.generate(SETTINGS_OF_CHAINS.model_copy(update=change))}
        assert not found & known, change
        known |= found


class Killed(Exception):
    """Stands for whatever ends a process."""


def test_a_killed_stage_goes_on_and_ends_with_the_same_content(
    tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Setting(tmp_path / "whole", tmp_path / "whole/home").generate()
    setting = Setting(tmp_path / "pieces", tmp_path / "pieces/home")
    real, calls = generate.write_chains, []

    def dying(*arguments: Any, **options: Any) -> Any:
        calls.append(len(arguments[2]))
        if len(calls) == 4:
            raise Killed
        return real(*arguments, **options)

    small = RESOURCES.model_copy(update={"generation_batch_size": 2})  # one prompt with two samples
    with monkeypatch.context() as patch:
        patch.setattr(generate, "write_chains", dying)
        with pytest.raises(Killed):
            setting.generate(resources=small)
    monkeypatch.setattr(generate, "write_chains", lambda *a, **k: calls.append(len(a[2])) or real(*a, **k))
    found = setting.generate()
    assert sum(calls[4:]) == 16 - 3, "three prompts were done"
    for one, other in zip(whole, found, strict=True):
        texts = [a.read(COMPLETIONS, columns=["prompt_id", "revision_index", "text"]) for a in (one, other)]
        assert texts[0] == texts[1]


def test_a_missing_completion_is_never_taken_for_complete(
    tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(tmp_path, tmp_path / "home")
    monkeypatch.setattr(generation, "run_jobs", lambda *_: None)
    with pytest.raises(WorkFailed, match="expected revision 0 of prompt .* found none; run it again"):
        setting.generate()


def test_other_jobs_share_the_launch_and_come_first(tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(tmp_path, tmp_path / "home")
    seen: list[list[Any]] = []
    monkeypatch.setattr(generation, "run_jobs", lambda stage, jobs, *rest: seen.append(list(jobs)))
    with pytest.raises(WorkFailed):
        setting.generate(also=["another job"])
    assert seen[0][0] == "another job" and len(seen[0]) == 5
