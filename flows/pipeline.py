"""The end-to-end flow: from preference pairs to win rates by number of self-revisions.

`run_stages` is the order of the stages, and the only place that states it. `srpo run` calls it as it is; `run_pipeline` is the
same under Prefect, where every stage is a task. Resuming means running again: each stage skips what is complete.
"""

import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from srpo_core.config import PipelineSettings
from storage.artifact import Artifact
from storage.runs import record_run
from tasks.demonstrations import ingest_demonstrations
from tasks.diagnostics import Diagnostics
from tasks.generation import generate_completions
from tasks.judging import judge_completions
from tasks.models import prepare_base_model
from tasks.newsroom import preference_source, prompt_sources, write_newsroom
from tasks.preferences import ingest_preferences
from tasks.prompts import find_contamination, ingest_prompts
from tasks.publishing import publish_results
from tasks.reference import compute_reference
from tasks.reporting import write_report
from tasks.training import train_policies, train_reference

logger = logging.getLogger("srpo")
F = TypeVar("F", bound=Callable[..., Any])
Stage = Callable[[F], F]  # what a stage function becomes: itself, or a Prefect task


def run_stages(settings: PipelineSettings, home: Path, stage: Callable[[Callable[..., Any]], Callable[..., Any]]) -> list[Artifact]:
    """Run every stage in order and return every artifact, parents first."""
    preferences, demonstrations, prompts, made = _prepare_data(settings, home, stage)
    base = stage(prepare_base_model)(settings.model, home, demonstrations or preferences)
    shared = {"model": settings.model, "resources": settings.resources, "home": home}
    reference = base
    if settings.supervised is not None:
        reference = stage(train_reference)(
            base, demonstrations, settings.supervised, template=settings.template, decoding=settings.generation, **shared
        )
    contamination = stage(find_contamination)(preferences, prompts, home)
    rows = stage(compute_reference)(reference, preferences, settings.training, **shared)
    policies = stage(train_policies)(reference, preferences, rows, contamination, settings.method_settings(), **shared)
    diagnostics = None
    if settings.diagnostics is not None:
        diagnostics = Diagnostics(reference, policies, prompts, settings.diagnostics, settings.generation, settings.model, home)
    also = diagnostics.jobs() if diagnostics else []
    completions = stage(generate_completions)([reference, *policies], prompts, settings.generation, also=also, **shared)
    by_digest = {prompt_set.digest: prompt_set for prompt_set in prompts}
    games = [
        stage(judge_completions)(one, [by_digest[one.manifest["parents"]["prompts"]["digest"]]], settings.judge, home)
        for one in completions
    ]
    made += [base, reference, contamination, rows, *policies, *completions, *games]
    return made + ([diagnostics.complete()] if diagnostics else [])


def _prepare_data(
    settings: PipelineSettings, home: Path, stage: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> tuple[Artifact, Artifact | None, list[Artifact], list[Artifact]]:
    """Preferences, demonstrations, evaluation sets, and all artifacts made."""
    made: list[Artifact] = []
    source, evaluation, demonstration_settings = settings.preferences, settings.evaluation, settings.demonstrations
    if settings.newsroom is not None:
        world = stage(write_newsroom)(settings.newsroom, home)
        made.append(world)
        source, evaluation = preference_source(world), prompt_sources(world)
        demonstration_settings = demonstration_settings.model_copy(update={"path": str(world.path / "demonstrations.jsonl")})
    preferences = stage(ingest_preferences)(source, home)
    prompts = [stage(ingest_prompts)(one, home) for one in evaluation]
    demonstrations = None
    if settings.supervised is not None:
        demonstrations = stage(ingest_demonstrations)(demonstration_settings, home, preferences)
    made += [preferences, *([demonstrations] if demonstrations else []), *prompts]
    return preferences, demonstrations, prompts, made


def run_recorded(
    settings: PipelineSettings, home: Path, stage: Callable[[Callable[..., Any]], Callable[..., Any]], prefect_run: str | None = None
) -> str:
    """`run_stages`, publish and report, with `runs/<run_id>.json` written at start and end; the run's id."""
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    asked = settings.model_dump(mode="json")
    record_run(home, run_id, state="running", settings=asked, artifacts=[], prefect_run=prefect_run)
    artifacts: list[Artifact] = []
    state = "failed"
    try:
        artifacts = run_stages(settings, home, stage)
        state = "completed"
    finally:
        record_run(home, run_id, state=state, settings=asked, artifacts=artifacts, prefect_run=prefect_run)
    stage(publish_results)(home)
    stage(write_report)(home)
    return run_id
