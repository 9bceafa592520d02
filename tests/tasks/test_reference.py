"""The reference stage: computed once per weights and pair, whatever is swept, added or voted anew."""

from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import InputError, WorkFailed
from srpo_core.settings.training import PreferenceSettings
from storage.artifact import Artifact
from storage.schemas import REFERENCE
from tasks import reference as stage
from tasks.models import adopt_reference, prepare_base_model
from tasks.reference import compute_reference
from tests.small_training import DECODING, TEMPLATE, pair_rows, save_policy
from tests.stages import RESOURCES, Launches, launches_here, model_settings, put_pairs, reference_policy


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    return launches_here(monkeypatch)


def compute(policy: Artifact, pairs: Artifact, model: Any, home: Path, **training: Any) -> Artifact:
    wanted = PreferenceSettings.model_validate({"layout": "trie"} | training)
    return compute_reference(policy, pairs, wanted, model=model, resources=RESOURCES, home=home)


def values(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {row["pair_id"]: row for row in artifact.read(REFERENCE).to_pylist()}


def test_a_sweep_pays_for_the_reference_once(tmp_path: Path, launches: Launches) -> None:
    home = tmp_path / "home"
    policy, model = reference_policy(tmp_path, home)
    pairs = put_pairs(home)
    first = compute(policy, pairs, model, home)
    assert first.counts == {"pairs": 8, "pairs_computed": 8, "pairs_too_long": 0} and launches.names() == ["reference"]
    for change in ({"beta": 0.3}, {"alpha": 0.9}, {"learning_rate": 1e-2}, {"method": "dpo"}, {"seed": 4}, {"pairs_per_step": 2}):
        assert compute(policy, pairs, model, home, **change) == first
    assert not launches.names()


def test_new_data_computes_its_new_pairs_and_new_votes_none(tmp_path: Path, launches: Launches) -> None:
    home, rows = tmp_path / "home", pair_rows(8)
    policy, model = reference_policy(tmp_path, home)
    first = compute(policy, put_pairs(home, rows[:5]), model, home)
    grown = compute(policy, put_pairs(home, rows), model, home)
    assert (grown.counts["pairs"], grown.counts["pairs_computed"]) == (8, 3)
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"], "preference": 0.7} for row in rows]
    voted = compute(policy, put_pairs(home, turned), model, home)
    assert (voted.counts["pairs"], voted.counts["pairs_computed"]) == (8, 0)
    assert values(voted) == values(grown) and values(grown) | values(first) == values(grown)


def test_new_weights_at_the_old_path_are_computed_anew(tmp_path: Path, launches: Launches) -> None:
    home = tmp_path / "home"
    policy, model = reference_policy(tmp_path, home)
    pairs = put_pairs(home)
    first = compute(policy, pairs, model, home)
    folder = save_policy(tmp_path / "base-0", seed=9)  # the same path, other weights
    base = prepare_base_model(model_settings(folder), home, None)
    other = adopt_reference(base, model=model, template=TEMPLATE, decoding=DECODING, home=home)
    second = compute(other, pairs, model, home)
    assert second.counts["pairs_computed"] == 8 and second.info["store"] != first.info["store"]
    assert all(abs(values(first)[name]["logp_a"] - row["logp_a"]) > 1e-3 for name, row in values(second).items())


@pytest.mark.parametrize("change", ["dtype", "layout", "template", "max_length"])
def test_whatever_decides_the_numbers_has_a_store_of_its_own(tmp_path: Path, launches: Launches, change: str) -> None:
    home = tmp_path / "home"
    policy, model = reference_policy(tmp_path, home)
    pairs = put_pairs(home)
    first = compute(policy, pairs, model, home)
    training = {}
    if change == "dtype":
        model = model.model_copy(update={"dtype": "bfloat16"})
    elif change == "layout":
        training = {"layout": "plain"}
    else:
        template = TEMPLATE.model_copy(update={"revision_request": "Again?"}) if change == "template" else TEMPLATE
        model = model.model_copy(update={"max_length": 140}) if change == "max_length" else model
        base = prepare_base_model(model_settings(tmp_path / "base-0"), home, None)
        policy = adopt_reference(base, model=model, template=template, decoding=DECODING, home=home)
    second = compute(policy, pairs, model, home, **training)
    assert second.info["store"] != first.info["store"] and second.counts["pairs_computed"] == 8


def test_a_killed_pass_keeps_what_it_had(tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    policy, model = reference_policy(tmp_path, home)
    rows = pair_rows(8)
    pairs = put_pairs(home, rows)

    def dying(name: str, jobs: Any, spread: Any, folder: Path) -> None:
        part = put_pairs(tmp_path / "elsewhere", rows[:6])
        launches(name, [jobs[0].model_copy(update={"preferences": [str(path) for path in part.parts()]})], spread, folder)
        raise WorkFailed("killed")

    with monkeypatch.context() as patch:
        patch.setattr(stage, "run_jobs", dying)
        with pytest.raises(WorkFailed):
            compute(policy, pairs, model, home)
    finished = compute(policy, pairs, model, home)
    assert (finished.counts["pairs"], finished.counts["pairs_computed"]) == (8, 2)


def test_deleting_the_manifest_joins_the_stored_rows_again(tmp_path: Path, launches: Launches) -> None:
    home = tmp_path / "home"
    policy, model = reference_policy(tmp_path, home)
    pairs = put_pairs(home)
    first = compute(policy, pairs, model, home)
    (first.path / "manifest.json").unlink()
    again = compute(policy, pairs, model, home)
    assert again.digest == first.digest and again.counts["pairs_computed"] == 0


def test_pairs_that_do_not_fit_are_counted_and_test_pairs_left_out(tmp_path: Path, launches: Launches) -> None:
    home, rows = tmp_path / "home", pair_rows(6)
    rows[0]["chosen"], rows[1]["split"], rows[2]["split"] = "x" * 200, "test", "validation"
    policy, model = reference_policy(tmp_path, home)
    artifact = compute(policy, put_pairs(home, rows), model, home)
    assert artifact.counts == {"pairs": 4, "pairs_computed": 4, "pairs_too_long": 1}
    assert [row["pair_id"] for row in artifact.read(REFERENCE).to_pylist()] == [rows[i]["pair_id"] for i in (2, 3, 4, 5)]


def test_nothing_that_fits_is_a_failure(tmp_path: Path, launches: Launches) -> None:
    home = tmp_path / "home"
    rows = [row | {"chosen": "x" * 200 + str(i)} for i, row in enumerate(pair_rows(2))]
    policy, model = reference_policy(tmp_path, home)
    with pytest.raises(InputError, match="found none: all 2 pairs exceed max_length; raise it"):
        compute(policy, put_pairs(home, rows), model, home)
