"""The likelihood stage: the policy's own log-prob of every completion under the prompt that asked for a draft.

All missing ones are computed in one launch; a killed launch keeps the prompts it finished.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from srpo_core.errors import WorkFailed
from srpo_core.settings.model import ModelSettings
from srpo_core.settings.resources import Resources
from srpo_core.workers.jobs import LikelihoodJob
from storage import parquet
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, writing
from storage.part_stream import PartStream
from storage.schemas import LIKELIHOODS
from tasks.launch import run_jobs
from tasks.models import model_folder

VERSION = 1


def compute_likelihoods(
    policy: Artifact,
    completions: Sequence[Artifact],
    prompts: Sequence[Artifact],
    *,
    model: ModelSettings,
    resources: Resources,
    home: Path,
) -> list[Artifact]:
    """Log-probs (table `likelihoods`) of each of `completions`, which `policy` wrote for the prompt set at the same place.

    Raises WorkFailed when a completion is missing from what the workers wrote; nothing is then marked complete.
    """
    asked = {"dtype": model.dtype}
    wanted = [
        {"policy": policy, "completions": written, "prompts": prompt_set}
        for written, prompt_set in zip(completions, prompts, strict=True)
    ]
    fingerprints = [compute_fingerprint("likelihoods", VERSION, asked, parents) for parents in wanted]
    with ExitStack() as leases:
        missing: dict[str, ArtifactWriter] = {}
        for fingerprint, parents in sorted(zip(fingerprints, wanted, strict=True), key=lambda one: one[0]):
            if fingerprint not in missing and find_artifact(home, "likelihoods", fingerprint) is None:
                context = writing(home, "likelihoods", fingerprint, version=VERSION, settings=asked, parents=parents)
                writer = leases.enter_context(context)
                if writer.artifact is None:
                    missing[fingerprint] = writer
        parents_of = dict(zip(fingerprints, wanted, strict=True))
        jobs = [_job(parents_of[name], model, writer.path) for name, writer in missing.items()]
        if jobs:
            run_jobs("likelihoods", jobs, resources, next(iter(missing.values())).path)
        for name, writer in missing.items():
            _complete(parents_of[name]["completions"], writer)
    found = [find_artifact(home, "likelihoods", fingerprint) for fingerprint in fingerprints]
    return [artifact for artifact in found if artifact is not None]


def _job(parents: dict[str, Artifact], model: ModelSettings, folder: Path) -> LikelihoodJob:
    policy, completions, prompts = parents["policy"], parents["completions"], parents["prompts"]
    return LikelihoodJob(
        name=f"likelihood of {policy.info['name']} on {prompts.settings.get('name', 'prompts')}",
        model_folder=str(model_folder(policy)),
        dtype=model.dtype,
        prompts=[str(path) for path in prompts.parts()],
        completions=[str(path) for path in completions.parts()],
        max_new_tokens=completions.settings["max_new_tokens"],
        folder=str(folder),
    )


def _complete(completions: Artifact, writer: ArtifactWriter) -> None:
    """Join the workers' files to parts in the order of the completions, whatever the batches and processes were."""
    batches = writer.finished_parts("batch")
    rows = {row["completion_id"]: row for row in parquet.iterate_rows(batches)}
    stream = PartStream(writer, LIKELIHOODS)
    without = 0
    for completion in completions.rows():
        row = rows.get(completion["completion_id"])
        if row is None:
            raise WorkFailed(
                f"expected the log-prob of completion {completion['completion_id']} in {writer.path}, found none; run it again"
            )
        stream.add_row(row)
        without += row["logp"] is None
    writer.complete(stream.close(), counts={"likelihoods": stream.num_rows, "completions_without_tokens": without})
    for path in batches:
        path.unlink()
