"""Ceilings on a toy reference whose optimum is computed exactly, and the one-edit table of a policy that is the reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srpo_core import newsroom
from srpo_core.models import create_small_model, save_model, train_tokenizer
from srpo_core.newsroom import preference_probability
from srpo_core.settings.model import TemplateSettings
from srpo_core.tokenization import PromptTokenizer
from srpo_core.workers.diagnostics import ONE_EDIT, estimate_ceiling
from srpo_core.workers.dispatch import do_job
from srpo_core.workers.jobs import CeilingJob, OneEditJob
from srpo_core.workers.parts import read_rows, write_part
from storage import schemas
from tests.small_training import cpu, resources

DOCUMENT = "Major fire, Oslo, 17. Minor strike, Rome, 15."
GOLD = "fire, Oslo, 17."
TEXTS = ("fire, Oslo, 17.", "fire, Rome, 17.", "strike, Rome, 15.", "fire, Rome, 17. strike, Oslo, 15.")
DRAFT = np.array([0.15, 0.35, 0.2, 0.3])
EDITS = np.array([[0.6, 0.2, 0.1, 0.1], [0.1, 0.6, 0.1, 0.2], [0.1, 0.2, 0.6, 0.1], [0.05, 0.2, 0.15, 0.6]])  # ref(column|row)
WIN = np.array([preference_probability(DOCUMENT, text, GOLD) for text in TEXTS])


class TableSampler:
    """A reference that is a table: four texts, how often each is drafted, and how often each is revised to which."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def sample(self, requests: Sequence[tuple[str, str | None]], copies: int, *labels: Any) -> list[list[str]]:
        rows = [DRAFT if draft is None else EDITS[TEXTS.index(draft)] for _, draft in requests]
        return [[TEXTS[i] for i in self.rng.choice(4, size=copies, p=row)] for row in rows]


def exact_win_rates(beta: float, revisions: int) -> list[float]:
    """pi* ~ ref / Z and pi'* ~ ref e^(p/beta), by summing over the four texts (docs/method.md 1.1)."""
    tilt = np.array([[np.exp(preference_probability(DOCUMENT, second, first) / beta) for second in TEXTS] for first in TEXTS])
    z = (EDITS * tilt).sum(1)
    policy = DRAFT / z / (DRAFT / z).sum()
    reviser = EDITS * tilt / z[:, None]
    rates = []
    for _ in range(revisions + 1):
        rates.append(float(policy @ WIN))
        policy = policy @ reviser
    return rates


def ceiling_job(path: Path, **options: Any) -> CeilingJob:
    values = {"betas": [0.3], "temperature": 1.0, "num_revisions": 2, "max_new_tokens": 12, "prompts": {}, "dtype": "float32"}
    values |= {"num_prompts": 32, "num_drafts": 16, "num_proposals": 16, "num_chains": 4, "seed": 0}
    return CeilingJob(name="ceiling", model_folder="", path=str(path), **(values | options))


@pytest.mark.parametrize("beta", [0.15, 0.4])
def test_the_estimate_converges_to_the_exact_optimum(tmp_path: Path, beta: float) -> None:
    """200 copies of one prompt, 60 drafts and 60 proposals each: within .015 of the exact win rate at every revision."""
    prompts = [{"prompt": [{"role": "user", "content": DOCUMENT}], "gold": [GOLD]}] * 200
    job = ceiling_job(tmp_path, num_drafts=60, num_proposals=60, num_chains=8)
    rows = estimate_ceiling(TableSampler(0), prompts, "id", beta, job)  # type: ignore[arg-type]
    exact = exact_win_rates(beta, 2)
    assert exact[0] > float(DRAFT @ WIN) + 0.03 and exact[2] > exact[0] + 0.05, "the toy has something to gain"
    assert [row["ceiling"] for row in rows] == [pytest.approx(value, abs=0.015) for value in exact]
    assert [row["revision_index"] for row in rows] == [0, 1, 2] and rows[0]["n_prompts"] == 200
    assert rows[0]["reference_win_rate"] == pytest.approx(float(DRAFT @ WIN), abs=0.01)
    assert all(row["ceiling_low"] <= row["ceiling"] <= row["ceiling_high"] for row in rows)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model for newsroom text."""
    folder = tmp_path_factory.mktemp("reference")
    tokenizer = train_tokenizer([*newsroom.EVENTS, *newsroom.PLACES, *newsroom.NUMBERS], 400)
    from srpo_core.settings.model import SmallModelSettings

    save_model(
        create_small_model(SmallModelSettings(hidden_size=16, num_layers=1, num_heads=2), tokenizer, 128), tokenizer, folder
    )
    PromptTokenizer(tokenizer, TemplateSettings(revision_request="Revise."), 128).save_template(folder)
    return folder


def test_a_ceiling_job_writes_a_row_per_set_beta_and_revision(tmp_path: Path, reference: Path) -> None:
    rng = np.random.default_rng(0)
    sets = {}
    for name in ("id", "long"):
        drawn = newsroom.draw_prompts(name, 4, rng)
        rows = [
            {"prompt_id": f"{name}{i}", "prompt": [{"role": "user", "content": row["prompt"]}], "gold": row["gold"]}
            | {"eval_set": name, "domain": name, "cluster_id": str(i)}
            for i, row in enumerate(drawn)
        ]
        write_part(tmp_path / f"{name}.parquet", rows, schemas.PROMPTS)
        sets[name] = [str(tmp_path / f"{name}.parquet")]
    path = tmp_path / "ceilings.parquet"
    job = ceiling_job(path, prompts=sets, betas=[0.1, 0.3], num_drafts=3, num_proposals=3, num_chains=2, num_revisions=1)
    do_job(job.model_copy(update={"model_folder": str(reference)}), cpu(), resources())
    found = read_rows([str(path)])
    assert {(row["eval_set"], row["beta"], row["revision_index"]) for row in found} == {
        (s, b, k) for s in ("id", "long") for b in (0.1, 0.3) for k in (0, 1)
    }
    assert not list(tmp_path.glob("*rank*"))


def test_the_reference_has_learned_nothing_and_the_target_is_p_minus_half_over_beta(tmp_path: Path, reference: Path) -> None:
    """F(edited|draft) - F(draft|draft) of a policy that is its own reference is 0; targets lie within .45/beta."""
    path = tmp_path / "edits.parquet"
    job = OneEditJob(
        name="edits",
        model_folder=str(reference),
        reference_folder=str(reference),
        dtype="float32",
        policy_id="p",
        beta=0.1,
        num_documents=6,
        path=str(path),
    )
    do_job(job, cpu(), resources())
    rows = {row["edit"]: row for row in read_rows([str(path)])}
    assert all(row["learned"] == 0 and abs(row["target"]) <= 4.5 + 1e-9 for row in rows.values())
    assert rows["corrupt a right fact"]["target"] < -2 and rows["add a right major fact"]["target"] > 2
    assert {name: field.type for name, field in zip(ONE_EDIT.names, ONE_EDIT, strict=True)}.keys() == set(schemas.ONE_EDIT.names)
