"""Newsroom diagnostics as artifacts: the ceiling of an exact fit beside every SRPO number, and the one-edit table.

The ceilings of a reference at one beta are an artifact of their own, so that training again does not estimate them again. The
expensive part, sampling the reference, runs in the launch that generates the completions.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from srpo_core.settings.model import GenerationSettings, ModelSettings
from srpo_core.settings.pipeline import DiagnosticsSettings
from srpo_core.workers.jobs import AnyJob, CeilingJob, OneEditJob
from storage import parquet
from storage.artifact import Artifact, compute_fingerprint, find_artifact, writing
from storage.schemas import CEILINGS, ONE_EDIT
from tasks.models import model_folder

VERSION = 1
CEILINGS_VERSION = 1
RAW = "reference_ceilings"  # not yet by policy


class _Ceilings(NamedTuple):
    """The ceilings of one reference at one beta: what names them and where they lie."""

    beta: float
    asked: dict[str, object]
    parents: dict[str, Artifact]
    fingerprint: str
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / f"{RAW}-00000-0.parquet"


class Diagnostics:
    """The diagnostics of one reference and the policies trained from it: its jobs, then its artifact."""

    def __init__(
        self,
        reference: Artifact,
        policies: Sequence[Artifact],
        prompts: Sequence[Artifact],
        settings: DiagnosticsSettings,
        generation: GenerationSettings,
        model: ModelSettings,
        home: Path,
    ) -> None:
        """Nothing is computed here."""
        self.reference, self.prompts, self.home = reference, list(prompts), home
        self.policies = [policy for policy in policies if policy.settings["method"] == "srpo"]
        self.settings, self.generation, self.model = settings, generation, model
        self.ceilings = [self._ceilings(beta) for beta in sorted({_beta(policy) for policy in self.policies})]
        self.parents = {"reference": reference} | {f"policy:{i}": policy for i, policy in enumerate(self.policies)}
        self.parents |= {f"prompts:{i}": prompt_set for i, prompt_set in enumerate(self.prompts)}
        self.asked = {"ceilings": [one.fingerprint for one in self.ceilings], "seed": generation.seed, "dtype": model.dtype}
        self.fingerprint = compute_fingerprint("diagnostics", VERSION, self.asked, self.parents)
        self.folder = home / "diagnostics" / self.fingerprint

    def jobs(self) -> list[AnyJob]:
        """What is left to compute; empty when the artifact is complete."""
        if not self.policies or find_artifact(self.home, "diagnostics", self.fingerprint) is not None:
            return []
        missing = [one for one in self.ceilings if not one.file.exists()]
        edits = [policy for policy in self.policies if not self._edit_file(policy).exists()]
        for folder in [self.folder, *(one.folder for one in missing)]:
            folder.mkdir(parents=True, exist_ok=True)
        return [*map(self._ceiling_job, missing), *map(self._edit_job, edits)]

    def complete(self) -> list[Artifact]:
        """The artifacts, from what the jobs wrote; none when no policy was trained by SRPO."""
        if not self.policies:
            return []
        ceilings = [self._complete_ceilings(one) for one in self.ceilings]
        found = find_artifact(self.home, "diagnostics", self.fingerprint)
        if found is not None:
            return [*ceilings, found]
        with writing(
            self.home, "diagnostics", self.fingerprint, version=VERSION, settings=self.asked, parents=self.parents
        ) as writer:
            if writer.artifact is not None:
                return [*ceilings, writer.artifact]
            rows = list(self._rows_by_policy())
            edits = [row for policy in self.policies for row in parquet.iterate_rows([self._edit_file(policy)])]
            files = [writer.part_path(0, "ceilings"), writer.part_path(0, "one_edit")]
            parquet.write_rows(files[0], rows, CEILINGS)
            parquet.write_rows(files[1], edits, ONE_EDIT)
            return [*ceilings, writer.complete(files, counts={"ceilings": len(rows), "edits": len(edits)})]

    def _ceilings(self, beta: float) -> _Ceilings:
        asked: dict[str, object] = self.settings.model_dump() | self.generation.model_dump(exclude={"num_samples", "top_p"})
        asked |= {"beta": beta, "dtype": self.model.dtype}
        parents = {"reference": self.reference} | {f"prompts:{i}": prompt_set for i, prompt_set in enumerate(self.prompts)}
        fingerprint = compute_fingerprint("diagnostics", CEILINGS_VERSION, asked, parents)
        return _Ceilings(beta, asked, parents, fingerprint, self.home / "diagnostics" / fingerprint)

    def _complete_ceilings(self, one: _Ceilings) -> Artifact:
        with writing(
            self.home, "diagnostics", one.fingerprint, version=CEILINGS_VERSION, settings=one.asked, parents=one.parents
        ) as writer:
            return writer.artifact or writer.complete([one.file])

    def _rows_by_policy(self) -> Iterator[dict[str, object]]:
        for policy in self.policies:
            own = next(one for one in self.ceilings if one.beta == _beta(policy))
            for row in parquet.iterate_rows([own.file]):
                yield {name: ({"policy_id": policy.fingerprint} | row)[name] for name in CEILINGS.names}

    def _edit_file(self, policy: Artifact) -> Path:
        return self.folder / f"edits_{policy.fingerprint}.parquet"

    def _ceiling_job(self, one: _Ceilings) -> CeilingJob:
        return CeilingJob(
            name=f"ceiling at beta {one.beta:g}",
            model_folder=str(model_folder(self.reference)),
            dtype=self.model.dtype,
            prompts={p.settings["name"]: [str(path) for path in p.parts()] for p in self.prompts},
            betas=[one.beta],
            temperature=self.generation.temperature,
            num_revisions=self.generation.num_revisions,
            max_new_tokens=self.generation.max_new_tokens,
            num_prompts=self.settings.num_prompts,
            num_drafts=self.settings.num_drafts,
            num_proposals=self.settings.num_proposals,
            num_chains=self.settings.num_chains,
            seed=self.generation.seed,
            path=str(one.file),
        )

    def _edit_job(self, policy: Artifact) -> OneEditJob:
        return OneEditJob(
            name=f"one edit {policy.info['name']}",
            model_folder=str(model_folder(policy)),
            reference_folder=str(model_folder(self.reference)),
            dtype=self.model.dtype,
            policy_id=policy.fingerprint,
            beta=_beta(policy),
            seed=self.generation.seed,
            path=str(self._edit_file(policy)),
        )


def _beta(policy: Artifact) -> float:
    return float(policy.settings["settings"]["beta"])


def complete_diagnostics(diagnostics: Diagnostics) -> list[Artifact]:
    """The diagnostics stage: what the generation launch computed, made into artifacts."""
    return diagnostics.complete()
