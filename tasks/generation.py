"""The generation stage: drafts and self-revisions of policies on evaluation sets, all missing ones in one launch."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from srpo_core.errors import WorkFailed
from srpo_core.settings.model import GenerationSettings, ModelSettings
from srpo_core.settings.resources import Resources
from srpo_core.workers.jobs import AnyJob, GenerateJob
from storage import parquet
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, writing
from storage.part_stream import PartStream
from storage.schemas import COMPLETIONS
from tasks.launch import run_jobs
from tasks.models import model_folder

VERSION = 1


def generate_completions(
    policies: Sequence[Artifact],
    prompts: Sequence[Artifact],
    settings: GenerationSettings,
    *,
    model: ModelSettings,
    resources: Resources,
    home: Path,
    also: Sequence[AnyJob] = (),
) -> list[Artifact]:
    """Completions of every policy on every evaluation set, policy by policy.

    `also` are further jobs for the same launch (a launch costs seconds); they run first.
    """
    asked = settings.model_dump() | {"dtype": model.dtype}
    wanted = [
        (policy, prompt_set, compute_fingerprint("completions", VERSION, asked, {"policy": policy, "prompts": prompt_set}))
        for policy in policies
        for prompt_set in prompts
    ]
    with ExitStack() as leases:
        missing: dict[str, tuple[Artifact, GenerateJob, ArtifactWriter]] = {}
        for policy, prompt_set, fingerprint in sorted(wanted, key=lambda w: w[2]):
            if fingerprint in missing or find_artifact(home, "completions", fingerprint) is not None:
                continue
            parents = {"policy": policy, "prompts": prompt_set}
            context = writing(home, "completions", fingerprint, version=VERSION, settings=asked, parents=parents)
            writer = leases.enter_context(context)
            if writer.artifact is None:
                missing[fingerprint] = (prompt_set, _job(policy, prompt_set, settings, model, writer.path), writer)
        ordered = [missing[fingerprint] for _, _, fingerprint in wanted if fingerprint in missing]
        jobs = [*also, *(job for _, job, _ in ordered)]
        if jobs:
            folder = ordered[0][2].path if ordered else Path(getattr(also[0], "path", home)).parent
            run_jobs("generate", jobs, resources, folder)
        for prompt_set, _, writer in ordered:
            if writer.artifact is None:
                _complete(prompt_set, settings, writer)
    found = [find_artifact(home, "completions", fingerprint) for _, _, fingerprint in wanted]
    return [artifact for artifact in found if artifact is not None]


def _job(policy: Artifact, prompt_set: Artifact, settings: GenerationSettings, model: ModelSettings, folder: Path) -> GenerateJob:
    return GenerateJob(
        name=f"{policy.info['name']} on {prompt_set.settings.get('name', 'prompts')}",
        model_folder=str(model_folder(policy)),
        dtype=model.dtype,
        policy_id=policy.fingerprint,
        prompts=[str(path) for path in prompt_set.parts()],
        settings=settings,
        folder=str(folder),
    )


def _complete(prompt_set: Artifact, settings: GenerationSettings, writer: ArtifactWriter) -> None:
    """Join the workers' files to parts in the order of the prompts, whatever the batches and processes were."""
    batches = writer.finished_parts("batch")
    rows = {_place(row): row for row in parquet.read_table(batches, COMPLETIONS).to_pylist()}
    stream = PartStream(writer, COMPLETIONS)
    reasons: Counter[str] = Counter()
    truncated = 0
    for prompt in prompt_set.rows():
        for sample in range(settings.num_samples):
            for revision in range(settings.num_revisions + 1):
                place = (prompt["prompt_id"], sample, revision)
                if place not in rows:
                    raise WorkFailed(
                        f"expected revision {revision} of prompt {place[0]} in {writer.path}, found none; run it again"
                    )
                stream.add_row(rows[place])
                reasons[rows[place]["finish_reason"]] += 1
                truncated += rows[place]["prompt_truncated"]
    counts = {"completions": stream.num_rows, "prompts_truncated": truncated}
    counts |= {f"finish:{reason}": reasons[reason] for reason in sorted(reasons)}
    writer.complete(stream.close(), counts=counts)
    for path in batches:
        path.unlink()


def _place(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["prompt_id"], row["sample_index"], row["revision_index"]
