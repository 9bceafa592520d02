"""The training stages: `sft` turns a model into the reference, preference methods turn the reference into policies.

Policies that are trained on the same data share one launch. Checkpoints of an interrupted training lie in its artifact's
folder, and the next attempt goes on from there.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.errors import InputError
from srpo_core.settings.model import GenerationSettings, ModelSettings, TemplateSettings
from srpo_core.settings.resources import Resources
from srpo_core.settings.training import PreferenceSettings, SupervisedSettings
from srpo_core.workers.jobs import AnyJob, PreferenceJob, SftJob
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, writing
from storage.schemas import CONTAMINATION, TRAINING_LOG
from tasks.launch import run_jobs
from tasks.models import list_files, model_folder

SFT_VERSION = 1
VERSION = 1
logger = logging.getLogger("srpo")


class _Plan(NamedTuple):
    """One policy to be had: what names it, and the job that makes it in a given folder."""

    name: str
    version: int
    settings: dict[str, Any]
    parents: dict[str, Artifact]
    job: Any  # Callable[[Path], AnyJob]

    @property
    def fingerprint(self) -> str:
        return compute_fingerprint("policies", self.version, self.settings, self.parents)


def train_reference(
    base: Artifact,
    demonstrations: Artifact,
    settings: SupervisedSettings,
    *,
    model: ModelSettings,
    template: TemplateSettings,
    decoding: GenerationSettings | None,
    resources: Resources,
    home: Path,
) -> Artifact:
    """Supervised training of both roles; the template and default decoding are written into the policy's folder."""
    asked = {
        "method": "sft",
        "settings": settings.model_dump(),
        "template": template.model_dump(),
        "max_length": model.max_length,
        "dtype": model.dtype,
    }

    def job(folder: Path) -> AnyJob:
        return SftJob(
            name="sft",
            model_folder=str(model_folder(base)),
            template=template,
            max_length=model.max_length,
            dtype=model.dtype,
            demonstrations=_paths(demonstrations),
            settings=settings,
            decoding=decoding,
            folder=str(folder),
        )

    plan = _Plan("sft", SFT_VERSION, asked, {"base": base, "demonstrations": demonstrations}, job)
    return _train("sft", [plan], resources, home)[0]


def train_policies(
    reference: Artifact,
    preferences: Artifact,
    reference_rows: Artifact,
    contamination: Artifact | None,
    settings: Sequence[PreferenceSettings],
    *,
    model: ModelSettings,
    resources: Resources,
    home: Path,
    start: Artifact | None = None,
) -> list[Artifact]:
    """One policy for each entry of `settings`, all trained against the stored log-probs of `reference`.

    Training begins with the weights of `start`, another policy trained against that reference; none = with the reference's own.
    """
    parents = {"reference": reference, "preferences": preferences, "reference_rows": reference_rows}
    if start is not None:
        parents["start"] = start
    left_out: list[str] = []
    if contamination is not None:
        parents["contamination"] = contamination
        left_out = sorted(set(contamination.read(CONTAMINATION, columns=["pair_id"])["pair_id"].to_pylist()))
    layout = reference_rows.info["layout"]  # the same layout and dtype make step-0 log-ratios exactly zero

    def plan(one: PreferenceSettings) -> _Plan:
        if one.layout not in ("auto", layout):
            raise InputError(
                f"expected layout auto or {layout}, in which the reference rows were computed, found {one.layout}; "
                f"compute rows in layout {one.layout} or leave it out"
            )
        resolved = one.model_copy(update={"layout": layout})
        asked = {"method": one.method, "settings": resolved.model_dump(), "dtype": model.dtype}

        def job(folder: Path) -> AnyJob:
            return PreferenceJob(
                name=one.method,
                model_folder=str(model_folder(start or reference)),
                dtype=model.dtype,
                preferences=_paths(preferences),
                left_out=left_out,
                reference=_paths(reference_rows),
                settings=resolved,
                folder=str(folder),
            )

        return _Plan(one.method, VERSION, asked, parents, job)

    return _train("train", [plan(one) for one in settings], resources, home)


def _train(stage: str, plans: Sequence[_Plan], resources: Resources, home: Path) -> list[Artifact]:
    """Every planned policy, training those that are not there yet in one launch."""
    with ExitStack() as leases:
        missing: dict[str, tuple[_Plan, ArtifactWriter]] = {}
        # Leases are taken in the order of the fingerprints, so that two runs cannot wait for each other.
        for plan in sorted(plans, key=lambda p: p.fingerprint):
            if plan.fingerprint in missing or find_artifact(home, "policies", plan.fingerprint) is not None:
                continue
            context = writing(
                home, "policies", plan.fingerprint, version=plan.version, settings=plan.settings, parents=plan.parents
            )
            writer = leases.enter_context(context)
            if writer.artifact is None:
                missing[plan.fingerprint] = (plan, writer)
        ordered = [missing[p.fingerprint] for p in plans if p.fingerprint in missing]
        todo = [(plan, writer) for plan, writer in ordered if not (writer.path / "result.json").exists()]
        if todo:
            run_jobs(stage, [plan.job(writer.path) for plan, writer in todo], resources, todo[0][1].path)
        for plan, writer in ordered:
            if writer.artifact is None:
                _complete(plan, writer)
    found = [find_artifact(home, "policies", plan.fingerprint) for plan in plans]
    return [artifact for artifact in found if artifact is not None]


def _complete(plan: _Plan, writer: ArtifactWriter) -> None:
    folder = writer.path
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    log = folder / "part-00000-0.parquet"
    if (folder / "training_log.parquet").exists():
        (folder / "training_log.parquet").replace(log)
    counts = {name: value for name, value in result.items() if isinstance(value, int)}
    info = {"name": plan.name, "layout": result.get("layout"), "steps": _last_step(log)}
    writer.complete([log, *list_files(folder / "model")], counts=counts, info=info)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "result.json").unlink()  # the manifest speaks from here on: without it the policy is trained again


def _last_step(log: Path) -> int:
    from storage.parquet import read_table

    return max(read_table([log], TRAINING_LOG, ["step"])["step"].to_pylist(), default=0)


def _paths(artifact: Artifact) -> list[str]:
    return [str(path) for path in artifact.parts()]
