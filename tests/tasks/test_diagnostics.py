"""Diagnostics as artifacts: ceilings once per reference and beta, edits once per SRPO policy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srpo_core import newsroom
from srpo_core.records import user_prompt
from srpo_core.settings.model import GenerationSettings
from srpo_core.settings.pipeline import DiagnosticsSettings
from srpo_core.settings.training import PreferenceSettings
from storage.schemas import CEILINGS, ONE_EDIT, PROMPTS
from tasks.diagnostics import Diagnostics
from tasks.models import adopt_reference, prepare_base_model
from tasks.reference import compute_reference
from tasks.training import train_policies
from tests.homes import put
from tests.small_training import TEMPLATE, save_policy, settings
from tests.stages import RESOURCES, Launches, launches_here, model_settings, put_pairs

FEW = DiagnosticsSettings(num_prompts=4, num_drafts=2, num_proposals=2, num_chains=1)
DECODED = GenerationSettings(num_revisions=1, max_new_tokens=4)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    return launches_here(monkeypatch)


def test_ceilings_are_shared_by_policies_of_one_beta_and_edits_are_not(tmp_path: Path, launches: Launches) -> None:
    home = tmp_path / "home"
    model = model_settings(save_policy(tmp_path / "model")).model_copy(update={"max_length": 400})
    base = prepare_base_model(model, home, None)
    reference = adopt_reference(base, model=model, template=TEMPLATE, decoding=DECODED, home=home)
    pairs, shared = put_pairs(home), {"model": model, "resources": RESOURCES, "home": home}
    rows = compute_reference(reference, pairs, PreferenceSettings(layout="trie"), **shared)  # type: ignore[arg-type]
    prompts = put(home, "prompts", {"part": (newsroom_prompts(), PROMPTS)}, settings={"name": "id"})

    def diagnose(*wanted: PreferenceSettings) -> Diagnostics:
        policies = train_policies(reference, pairs, rows, None, wanted, **shared)  # type: ignore[arg-type]
        launches.names()
        return Diagnostics(reference, policies, [prompts], FEW, DECODED, model, home)

    short: dict[str, Any] = {"num_steps": 1, "layout": "trie"}
    first = diagnose(settings(beta=0.1, **short), settings(method="dpo", beta=0.3, **short))
    launches("diagnose", first.jobs(), RESOURCES, home)
    assert launches.names() == ["ceiling at beta 0.1", "one edit srpo"], "DPO's beta has no ceiling"
    *_, artifact = first.complete()
    ceilings = artifact.read(CEILINGS, prefix="ceilings").to_pylist()
    assert [(row["eval_set"], row["beta"], row["revision_index"]) for row in ceilings] == [("id", 0.1, 0), ("id", 0.1, 1)]
    assert {row["edit"] for row in artifact.read(ONE_EDIT, prefix="one_edit").to_pylist()} >= {"corrupt a right fact"}
    assert not first.jobs() and first.complete()[-1] == artifact
    other = diagnose(settings(beta=0.1, seed=1, **short))
    assert [job.name for job in other.jobs()] == ["one edit srpo"], "the ceiling of beta .1 is there"
    assert not diagnose(settings(method="ipo", **short)).complete()


def newsroom_prompts() -> list[dict[str, Any]]:
    drawn = newsroom.draw_prompts("id", 4, np.random.default_rng(0))
    return [
        {"prompt_id": str(i), "prompt": user_prompt(str(row["prompt"])), "gold": row["gold"], "eval_set": "id"}
        | {"domain": "newsroom-id", "cluster_id": str(i)}
        for i, row in enumerate(drawn)
    ]
