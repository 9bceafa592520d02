"""The end-to-end flow: from preference pairs to win rates by number of self-revisions.

`run_stages` is the order of the stages, and the only place that states it. `srpo run` calls it as it is; `flows/run.py` is
the same under Prefect, where every stage is a task. Resuming means running again: each stage skips what is complete.
"""

import logging
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flows.evaluation_sets import judge_sets, look_where_asked
from flows.recorded_run import run_with_record
from flows.training_stages import Stage, make_reference, train_against
from srpo_core.errors import InputError
from srpo_core.judging.judge_presets import find_preset
from srpo_core.judging.judges import read_api_key
from srpo_core.judging.request_limits import Spent
from srpo_core.settings.data import DemonstrationSettings, PreferenceSourceSettings, PromptSourceSettings
from srpo_core.settings.judges import ApiJudgeSettings
from srpo_core.settings.pipeline import PipelineSettings
from storage.artifact import Artifact
from tasks.demonstrations import ingest_demonstrations
from tasks.diagnostics import Diagnostics, complete_diagnostics
from tasks.equal_compute import compare_equal_compute
from tasks.generation import generate_completions
from tasks.judge_identity import judge_name
from tasks.launch import check_processes
from tasks.newsroom import preference_source, prompt_sources, write_newsroom
from tasks.preferences import ingest_preferences
from tasks.prompts import has_gold, ingest_prompts

logger = logging.getLogger("srpo")


class Sources(NamedTuple):
    """Where a run's data come from."""

    preferences: PreferenceSourceSettings
    evaluation: list[PromptSourceSettings]
    demonstrations: DemonstrationSettings
    newsroom: Artifact | None


def run_stages(settings: PipelineSettings, home: Path, stage: Stage) -> None:
    """Run every stage in order; each gives what it made to the ones behind it."""
    check_at_once(settings)
    preferences, demonstrations, prompts = _prepare_data(settings, home, stage)
    reference = make_reference(settings, preferences, demonstrations, home, stage)
    shared: dict[str, Any] = {"model": settings.model, "resources": settings.resources, "home": home}
    policies = train_against(reference, preferences, prompts, settings.method_settings(), stage, **shared)
    diagnostics = None
    if settings.diagnostics is not None:
        diagnostics = Diagnostics(reference, policies, prompts, settings.diagnostics, settings.generation, settings.model, home)
    also = diagnostics.jobs() if diagnostics else []
    completions = stage(generate_completions)([reference, *policies], prompts, settings.generation, also=also, **shared)
    judging = {"resources": settings.resources, "spent": Spent()}  # one budget for all of them
    judge_sets(completions, {one.digest: one for one in prompts}, settings.judge, home, stage, **judging)
    look_where_asked(completions, prompts, settings.judge, home, stage, **judging)
    if settings.equal_compute is not None:
        for policy in policies:
            asked = (settings.equal_compute, settings.generation, settings.judge)
            stage(compare_equal_compute)(policy, prompts, *asked, spent=judging["spent"], **shared)
    if diagnostics:
        stage(complete_diagnostics)(diagnostics)


def locate_sources(settings: PipelineSettings, home: Path, stage: Stage) -> Sources:
    """The sources that the settings name, or the newsroom's files, which are written first."""
    if settings.preferences is not None:
        evaluation = _chosen_sets(settings.evaluation, settings.only_sets)
        return Sources(settings.preferences, evaluation, settings.demonstrations, None)
    world = stage(write_newsroom)(settings.newsroom, home)
    demonstrations = settings.demonstrations.model_copy(update={"path": str(world.path / "demonstrations.jsonl")})
    evaluation = _chosen_sets(prompt_sources(world, settings.only_sets), settings.only_sets)
    return Sources(preference_source(world), evaluation, demonstrations, world)


def check_at_once(settings: PipelineSettings) -> None:
    """Raise InputError for what only the last stages need, before hours are spent on the first."""
    picking = None if settings.equal_compute is None else settings.equal_compute.picking_judge
    for judge in (settings.judge, picking):
        if isinstance(judge, ApiJudgeSettings):
            find_preset(judge.preset)
            read_api_key(judge)
        elif judge is not None:
            judge_name(judge)  # finds a local judge's model and preset
    check_processes(settings.resources)


def _prepare_data(settings: PipelineSettings, home: Path, stage: Stage) -> tuple[Artifact, Artifact | None, list[Artifact]]:
    """Preferences, demonstrations and evaluation sets."""
    sources = locate_sources(settings, home, stage)
    preferences = stage(ingest_preferences)(sources.preferences, home)
    prompts = [stage(ingest_prompts)(one, home) for one in sources.evaluation]
    for prompt_set in prompts:
        if not has_gold(prompt_set):
            name = prompt_set.settings["name"]
            raise InputError(
                f"expected gold texts in evaluation set {name}, found none; give its opponent's answers, opponent_path"
            )
    demonstrations = None
    if settings.supervised is not None:
        demonstrations = stage(ingest_demonstrations)(sources.demonstrations, home, preferences)
    return preferences, demonstrations, prompts


def _chosen_sets(evaluation: list[PromptSourceSettings], only: list[str] | None) -> list[PromptSourceSettings]:
    """The evaluation sets to use. Raises InputError for a name that no set has."""
    names = [one.name for one in evaluation]
    unknown = sorted(set(only or []) - set(names))
    if unknown:
        raise InputError(
            f"expected only_sets to name evaluation sets ({', '.join(names)}), found {', '.join(unknown)}; correct the name"
        )
    return [one for one in evaluation if only is None or one.name in only]


def run_recorded(
    settings: PipelineSettings, home: Path, stage: Stage, *, prefect_run: str | None = None, deployment: str | None = None
) -> str:
    """`run_stages`, publish and report, with the record `runs/<run_id>.json` from start to end; the run's id."""
    body = partial(run_stages, settings, home)
    return run_with_record(body, settings, home, stage, prefect_run=prefect_run, deployment=deployment)
