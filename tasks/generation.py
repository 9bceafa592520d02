"""The generation stage: drafts and self-revisions of policies on evaluation sets, all missing ones in one launch."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from srpo_core.config import GenerationSettings, ModelSettings, Resources
from srpo_core.workers.jobs import AnyJob, GenerateJob
from storage import parquet
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, writing
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
        missing: dict[str, tuple[GenerateJob, ArtifactWriter]] = {}
        for policy, prompt_set, fingerprint in sorted(wanted, key=lambda w: w[2]):
            if fingerprint in missing or find_artifact(home, "completions", fingerprint) is not None:
                continue
            parents = {"policy": policy, "prompts": prompt_set}
            context = writing(home, "completions", fingerprint, version=VERSION, settings=asked, parents=parents)
            writer = leases.enter_context(context)
            if writer.artifact is None:
                missing[fingerprint] = (_job(policy, prompt_set, settings, model, writer.path), writer)
        ordered = [missing[fingerprint] for _, _, fingerprint in wanted if fingerprint in missing]
        jobs = [*also, *(job for job, _ in ordered)]
        if jobs:
            folder = ordered[0][1].path if ordered else Path(getattr(also[0], "path", home)).parent
            run_jobs("generate", jobs, resources, folder)
        for _, writer in ordered:
            if writer.artifact is None:
                _complete(writer)
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


def _complete(writer: ArtifactWriter) -> None:
    parts = writer.finished_parts()
    table = parquet.read_table(parts, COMPLETIONS, ["finish_reason", "prompt_truncated"])
    reasons = table["finish_reason"].to_pylist()
    counts = {"completions": len(reasons), "prompts_truncated": sum(table["prompt_truncated"].to_pylist())}
    counts |= {f"finish:{reason}": reasons.count(reason) for reason in sorted(set(reasons))}
    writer.complete(parts, counts=counts)
