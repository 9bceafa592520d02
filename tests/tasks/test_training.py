"""The training stages as artifacts: what names a policy, what is skipped, what an interruption leaves."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import InputError, WorkFailed
from srpo_core.models import load_model, load_tokenizer
from srpo_core.settings.model import LoraSettings
from srpo_core.settings.training import PreferenceSettings, SupervisedSettings
from srpo_core.tokenization import load_template
from storage.artifact import Artifact, find_artifact, list_incomplete
from storage.schemas import TRAINING_LOG
from tasks import training
from tasks.models import model_folder
from tasks.reference import compute_reference
from tasks.training import train_policies, train_reference
from tests.small_training import DECODING, TEMPLATE, pair_rows, settings
from tests.stages import (
    RESOURCES,
    Launches,
    base_model,
    launches_here,
    put_contamination,
    put_demonstrations,
    put_pairs,
    reference_policy,
)

SHORT = {"num_steps": 2, "layout": "trie"}


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    return launches_here(monkeypatch)


class Chain:
    """A reference, pairs and reference rows, and training from them."""

    def __init__(self, tmp_path: Path, home: Path, rows: list[dict[str, Any]] | None = None) -> None:
        self.home = home
        self.reference, self.model = reference_policy(tmp_path, home)
        self.preferences = put_pairs(home, rows)
        shared = {"model": self.model, "resources": RESOURCES, "home": home}
        self.rows = compute_reference(self.reference, self.preferences, PreferenceSettings(layout="trie"), **shared)  # type: ignore[arg-type]

    def train(
        self, *wanted: PreferenceSettings, contamination: Artifact | None = None, resources: Any = RESOURCES
    ) -> list[Artifact]:
        return train_policies(
            self.reference,
            self.preferences,
            self.rows,
            contamination,
            wanted,
            model=self.model,
            resources=resources,
            home=self.home,
        )


def test_another_layout_than_the_reference_rows_is_refused(tmp_path: Path, launches: Launches) -> None:
    chain = Chain(tmp_path, tmp_path / "home")
    with pytest.raises(InputError, match="expected layout auto or trie, in which the reference rows were computed, found plain"):
        chain.train(settings(num_steps=2, layout="plain"))


def test_a_policy_is_an_artifact_with_weights_template_and_log(tmp_path: Path, launches: Launches) -> None:
    chain = Chain(tmp_path, tmp_path / "home")
    (policy,) = chain.train(settings(**SHORT))
    assert policy.settings["method"] == "srpo" and policy.info == {"name": "srpo", "layout": "trie", "steps": 2}
    assert policy.counts["pairs"] == 8
    log = policy.read(TRAINING_LOG).to_pylist()
    assert {row["step"] for row in log} == {1, 2} and {"loss", "grad_norm"} <= {row["name"] for row in log}
    tok, decoding = load_template(model_folder(policy), load_tokenizer(model_folder(policy)))
    assert (tok.settings, decoding) == (TEMPLATE, DECODING)
    listed = {entry["name"] for entry in policy.manifest["files"]}
    assert {"model/model.safetensors", "model/srpo_template.json", "model/tokenizer.json"} <= listed
    assert not [path for path in policy.path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")], "checkpoints are gone"
    assert {"result.json", "checkpoints"}.isdisjoint(path.name for path in policy.path.iterdir())


def test_complete_policies_are_not_trained_again_and_missing_ones_share_a_launch(tmp_path: Path, launches: Launches) -> None:
    chain = Chain(tmp_path, tmp_path / "home")
    launches.names()
    (first,) = chain.train(settings(**SHORT))
    assert launches.names() == ["srpo"]
    again, dpo, ipo = chain.train(settings(**SHORT), settings(method="dpo", **SHORT), settings(method="ipo", **SHORT))
    assert launches.names() == ["dpo", "ipo"] and again == first
    assert [policy.settings["method"] for policy in (again, dpo, ipo)] == ["srpo", "dpo", "ipo"], "in the order asked for"
    chain.train(settings(**SHORT), settings(**SHORT))
    assert launches.names() == []


def test_resources_are_not_part_of_what_a_policy_is(tmp_path: Path, launches: Launches) -> None:
    chain = Chain(tmp_path, tmp_path / "home")
    (first,) = chain.train(settings(**SHORT))
    launches.names()
    other = RESOURCES.model_copy(update={"tokens_per_microbatch": 64, "checkpoint_every": 1, "num_processes": 3})
    assert chain.train(settings(**SHORT), resources=other) == [first] and not launches.names()


@pytest.mark.parametrize(
    "change",
    [
        {"beta": 0.2},
        {"alpha": 0.5},
        {"learning_rate": 2e-3},
        {"seed": 1},
        {"num_steps": 3},
        {"pairs_per_step": 3},
        {"method": "ipo"},
        {"logp_reduction": "mean"},
        {"loss_scale": "unit_gradient"},
        {"lora": LoraSettings()},
        {"max_grad_norm": 0.5},
        {"weight_decay": 0.1},
        {"warmup_ratio": 0.2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_that_changes_numbers_names_another_policy(
    tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    chain = Chain(tmp_path, tmp_path / "home")

    def no_training(*_: Any) -> None:
        raise WorkFailed("not here")

    monkeypatch.setattr(training, "run_jobs", no_training)
    for wanted in (settings(**SHORT), settings(**(SHORT | change))):
        with pytest.raises(WorkFailed):
            chain.train(wanted)
    adopted = [path for path in list_incomplete(tmp_path / "home", "policies")]
    assert len(adopted) == 2


def test_contaminated_pairs_are_left_out_and_name_another_policy(tmp_path: Path, launches: Launches) -> None:
    chain = Chain(tmp_path, tmp_path / "home")
    (everything,) = chain.train(settings(**SHORT))
    overlap = put_contamination(tmp_path / "home", [row["pair_id"] for row in pair_rows(8)[:3]] * 2)
    (cleaned,) = chain.train(settings(**SHORT), contamination=overlap)
    assert cleaned.counts["pairs"] == 5 and cleaned.fingerprint != everything.fingerprint


def test_deleting_the_manifest_trains_again_to_the_same_content(tmp_path: Path, launches: Launches) -> None:
    chain = Chain(tmp_path, tmp_path / "home")
    (policy,) = chain.train(settings(**SHORT))
    launches.names()
    (policy.path / "manifest.json").unlink()
    (policy.path / "model/model.safetensors").write_bytes(b"torn")
    (again,) = chain.train(settings(**SHORT))
    assert launches.names() == ["srpo"]
    weights = [
        entry["sha256"] for p in (policy, again) for entry in p.manifest["files"] if entry["name"].endswith("model.safetensors")
    ]
    assert weights[0] == weights[1]


def test_a_failed_policy_leaves_the_finished_ones_finished(
    tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two jobs dies: nothing is complete yet, and the next attempt trains the second alone."""
    chain = Chain(tmp_path, tmp_path / "home")
    launches.names()

    def dying(stage: str, jobs: Any, spread: Any, folder: Path) -> None:
        launches(stage, jobs[:1], spread, folder)
        raise WorkFailed("the machine went away")

    wanted = settings(**SHORT), settings(method="dpo", **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(training, "run_jobs", dying)
        with pytest.raises(WorkFailed):
            chain.train(*wanted)
    assert launches.names() == ["srpo"] and len(list_incomplete(tmp_path / "home", "policies")) == 2
    first, second = chain.train(*wanted)
    assert launches.names() == ["dpo"] and first.settings["method"] == "srpo"


def test_half_written_results_are_not_taken_for_whole(
    tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was killed while it saved leaves a model folder and no result.json: the policy is trained again."""
    chain = Chain(tmp_path, tmp_path / "home")

    def torn(stage: str, jobs: Any, spread: Any, folder: Path) -> None:
        (Path(jobs[0].folder) / "model").mkdir()
        (Path(jobs[0].folder) / "model/model.safetensors").write_bytes(b"half")
        (Path(jobs[0].folder) / ".result.json.77.tmp").write_text('{"pai')
        raise WorkFailed("killed")

    with monkeypatch.context() as patch:
        patch.setattr(training, "run_jobs", torn)
        with pytest.raises(WorkFailed):
            chain.train(settings(**SHORT))
    (policy,) = chain.train(settings(**SHORT))
    assert load_model(model_folder(policy)) and find_artifact(tmp_path / "home", "policies", policy.fingerprint)


def test_the_reference_is_trained_from_a_base_and_keeps_the_template(tmp_path: Path, launches: Launches) -> None:
    home = tmp_path / "home"
    base, model = base_model(tmp_path, home)
    supervised = SupervisedSettings(num_steps=2, examples_per_step=4)
    options: dict[str, Any] = {"model": model, "template": TEMPLATE, "resources": RESOURCES, "home": home}
    reference = train_reference(base, put_demonstrations(home), supervised, decoding=DECODING, **options)
    assert reference.settings["method"] == "sft" and reference.counts["demonstrations_too_long"] == 0
    other = DECODING.model_copy(update={"temperature": 0.1})
    launches.names()
    assert train_reference(base, put_demonstrations(home), supervised, decoding=other, **options) == reference
    assert not launches.names(), "how one decodes later does not change the weights"
    shorter = train_reference(base, put_demonstrations(home), supervised, decoding=None, **(options | {"model": shorten(model)}))
    assert shorter.fingerprint != reference.fingerprint


def shorten(model: Any) -> Any:
    return model.model_copy(update={"max_length": 150})


def test_an_adapter_policy_survives_a_move_of_the_home(tmp_path: Path, launches: Launches) -> None:
    home = tmp_path / "home"
    base, model = base_model(tmp_path, home)
    supervised = SupervisedSettings(num_steps=1, examples_per_step=4)
    reference = train_reference(
        base, put_demonstrations(home), supervised, model=model, template=TEMPLATE, decoding=None, resources=RESOURCES, home=home
    )
    pairs = put_pairs(home)
    shared: dict[str, Any] = {"model": model, "resources": RESOURCES, "home": home}
    rows = compute_reference(reference, pairs, PreferenceSettings(layout="trie"), **shared)
    (policy,) = train_policies(reference, pairs, rows, None, [settings(lora=LoraSettings(rank=2), **SHORT)], **shared)
    shutil.move(home, tmp_path / "moved")
    moved = find_artifact(tmp_path / "moved", "policies", policy.fingerprint)
    assert moved is not None and load_model(model_folder(moved)).peft_config
