"""The stages around a model in one process, on artifacts small enough for a second: what tests of single stages start from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from srpo_core.settings.model import ModelSettings
from srpo_core.workers.dispatch import do_job
from storage.artifact import Artifact
from storage.schemas import CONTAMINATION, DEMONSTRATIONS, PREFERENCES, PROMPTS
from tasks.models import adopt_reference, prepare_base_model
from tests.homes import put
from tests.small_training import DECODING, TEMPLATE, cpu, demonstration_rows, pair_rows, prompt_rows, resources, save_policy

RESOURCES = resources()


class Launches:
    """Stands in the place of `run_jobs`: does the jobs in this process and remembers them."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def __call__(self, stage: str, jobs: Sequence[Any], spread: Any, folder: Path) -> None:
        for job in jobs:
            self.jobs.append(job)
            do_job(job, cpu(), spread)

    def names(self) -> list[str]:
        """Of the jobs done since the last call."""
        names = [job.name for job in self.jobs]
        self.jobs.clear()
        return names


def launches_here(monkeypatch: pytest.MonkeyPatch) -> Launches:
    launches = Launches()
    for module in ("training", "reference", "generation"):
        monkeypatch.setattr(f"tasks.{module}.run_jobs", launches)
    return launches


def model_settings(folder: Path) -> ModelSettings:
    return ModelSettings(name_or_path=str(folder), max_length=160)


def base_model(tmp_path: Path, home: Path, seed: int = 0) -> tuple[Artifact, ModelSettings]:
    """A model in a folder outside the home, and its artifact."""
    settings = model_settings(save_policy(tmp_path / f"base-{seed}", seed))
    return prepare_base_model(settings, home, None), settings


def reference_policy(tmp_path: Path, home: Path, seed: int = 0) -> tuple[Artifact, ModelSettings]:
    base, settings = base_model(tmp_path, home, seed)
    return adopt_reference(base, model=settings, template=TEMPLATE, decoding=DECODING, home=home), settings


def put_pairs(home: Path, rows: list[dict[str, Any]] | None = None) -> Artifact:
    rows = pair_rows(8) if rows is None else rows
    return put(home, "preferences", {"part": (rows, PREFERENCES)}, settings={"ids": [r["pair_id"] + r["chosen"] for r in rows]})


def put_demonstrations(home: Path) -> Artifact:
    return put(home, "demonstrations", {"part": (demonstration_rows(8), DEMONSTRATIONS)})


def put_prompt_set(home: Path, count: int = 5, name: str = "set") -> Artifact:
    return put(home, "prompts", {"part": (prompt_rows(count), PROMPTS)}, settings={"name": name, "count": count})


def put_contamination(home: Path, pair_ids: list[str]) -> Artifact:
    rows = [{"pair_id": name, "prompt_id": "p", "kind": "prompt"} for name in pair_ids]
    return put(home, "contamination", {"part": (rows, CONTAMINATION)}, settings={"ids": pair_ids})
