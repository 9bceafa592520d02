"""Generation jobs: every prompt once, whatever was interrupted and however the work was spread."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from srpo_core.records import Completion
from srpo_core.settings.model import GenerationSettings
from srpo_core.tokenization import PairTooLong
from srpo_core.workers import generate
from srpo_core.workers.dispatch import do_job
from srpo_core.workers.jobs import GenerateJob
from srpo_core.workers.parts import read_rows, write_part
from storage.schemas import COMPLETIONS, PROMPTS
from tests.small_training import SETTINGS_OF_CHAINS, cpu, prompt_rows, resources, save_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


def job(folder: Path, policy: Path, rows: list[dict[str, Any]], settings: GenerationSettings = SETTINGS_OF_CHAINS) -> GenerateJob:
    folder.mkdir(exist_ok=True)
    write_part(folder / "prompts.parquet", rows, PROMPTS)
    return GenerateJob(
        name="generate",
        model_folder=str(policy),
        dtype="float32",
        policy_id="policy",
        prompts=[str(folder / "prompts.parquet")],
        settings=settings,
        folder=str(folder),
    )


def written(folder: Path) -> dict[str, dict[str, Any]]:
    rows = read_rows(generate.finished_files(folder))
    assert len({row["completion_id"] for row in rows}) == len(rows), "no completion is written twice"
    return {row["completion_id"]: row for row in rows}


def test_columns_are_those_of_the_record_and_of_the_table() -> None:
    assert generate.SCHEMA == COMPLETIONS
    assert [field.name for field in fields(Completion)] == COMPLETIONS.names


def test_batch_size_changes_nothing(tmp_path: Path, policy: Path) -> None:
    rows = prompt_rows(5)
    for size in (1, 3, 64):
        do_job(job(tmp_path / str(size), policy, rows), cpu(), resources(generation_batch_size=size))
    assert written(tmp_path / "1") == written(tmp_path / "3") == written(tmp_path / "64")
    assert len(written(tmp_path / "1")) == 5 * 2 * 3


class Killed(Exception):
    """Stands for whatever ends a process."""


def test_an_interrupted_job_goes_on_with_other_batches(tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in its third batch of two, finished in batches of five: each prompt is there once, as in one go."""
    rows = prompt_rows(9)
    do_job(job(tmp_path / "whole", policy, rows), cpu(), resources())
    real, calls = generate.write_chains, []

    def dying(model: Any, tok: Any, prompts: Any, *rest: Any, **options: Any) -> Any:
        calls.append(len(prompts))
        if len(calls) == 3:
            raise Killed
        return real(model, tok, prompts, *rest, **options)

    pieces = job(tmp_path / "pieces", policy, rows)
    monkeypatch.setattr(generate, "write_chains", dying)
    with pytest.raises(Killed):
        do_job(pieces, cpu(), resources(generation_batch_size=4))
    assert len(written(tmp_path / "pieces")) == 4 * 6
    do_job(pieces, cpu(), resources(generation_batch_size=10))
    assert calls == [2, 2, 2, 5]
    assert written(tmp_path / "pieces") == written(tmp_path / "whole")
    do_job(pieces, cpu(), resources())
    assert calls == [2, 2, 2, 5], "nothing is left to do"


def test_a_prompt_that_cannot_fit_stops_the_job_before_it_begins(tmp_path: Path, policy: Path) -> None:
    rows = prompt_rows(3)
    rows[2]["prompt"] = [{"role": "system", "content": "x" * 200}, *rows[2]["prompt"]]
    with pytest.raises(PairTooLong, match=f"evaluation prompt {rows[2]['prompt_id']}"):
        do_job(job(tmp_path / "long", policy, rows), cpu(), resources(generation_batch_size=1))
    assert not generate.finished_files(tmp_path / "long")
