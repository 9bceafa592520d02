"""The stages between data and policies, in their order: the reference, the overlap with evaluation sets, its log-probs, training.

A pipeline's run and a retraining make their reference here, and every policy of a preference method is trained here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from srpo_core.settings.pipeline import PipelineSettings
from srpo_core.settings.training import PreferenceSettings
from storage.artifact import Artifact
from tasks.models import adopt_reference, prepare_base_model
from tasks.prompts import find_contamination
from tasks.reference import compute_reference
from tasks.training import train_policies, train_reference

Stage = Callable[[Callable[..., Any]], Callable[..., Any]]  # what a stage function becomes: itself, or a Prefect task


def make_reference(
    settings: PipelineSettings, preferences: Artifact, demonstrations: Artifact | None, home: Path, stage: Stage
) -> Artifact:
    """The frozen reference: the starting model trained on the demonstrations, or as it is without a supervised stage."""
    base = stage(prepare_base_model)(settings.model, home, demonstrations or preferences, settings.template)
    prompting = {"template": settings.template, "decoding": settings.generation, "model": settings.model, "home": home}
    if settings.supervised is None:
        return stage(adopt_reference)(base, **prompting)
    return stage(train_reference)(base, demonstrations, settings.supervised, resources=settings.resources, **prompting)


def train_against(
    reference: Artifact,
    preferences: Artifact,
    prompts: Sequence[Artifact],
    settings: Sequence[PreferenceSettings],
    stage: Stage,
    *,
    start: Artifact | None = None,
    overlap: Artifact | None = None,
    rows: Artifact | None = None,
    **work: Any,
) -> list[Artifact]:
    """One policy for each of `settings`, without the pairs that overlap with `prompts`; only what is not there yet is computed.

    `start`: the policy whose weights training begins with; none = the reference. `overlap`, `rows`: the contamination and the
    log-probs, where they are chosen already. `work`: model, resources and home. The layout of the log-probs is that of the first
    settings; others must be able to share it.
    """
    if prompts:
        overlap = stage(find_contamination)(preferences, list(prompts), work["home"])
    if rows is None:
        rows = stage(compute_reference)(reference, preferences, settings[0], **work)
    more = {} if start is None else {"start": start}
    return stage(train_policies)(reference, preferences, rows, overlap, list(settings), **more, **work)
