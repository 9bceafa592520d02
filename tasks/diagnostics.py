"""Newsroom diagnostics as an artifact: the ceiling of an exact fit beside every SRPO number, and the one-edit table.

The expensive part, sampling the reference, runs in the launch that generates the completions.
"""

from collections.abc import Sequence
from pathlib import Path

from srpo_core.config import DiagnosticsSettings, GenerationSettings, ModelSettings
from srpo_core.workers.jobs import AnyJob, CeilingJob, OneEditJob
from storage import parquet
from storage.artifact import Artifact, compute_fingerprint, find_artifact, writing
from storage.schemas import CEILINGS, ONE_EDIT
from tasks.models import model_folder

VERSION = 1


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
        self.reference, self.policies, self.prompts = reference, list(policies), list(prompts)
        self.settings, self.generation, self.model, self.home = settings, generation, model, home
        self.asked = settings.model_dump() | {"temperature": generation.temperature, "num_revisions": generation.num_revisions}
        self.parents = {"reference": reference}
        self.parents |= {f"policy:{i}": policy for i, policy in enumerate(self.policies)}
        self.parents |= {f"prompts:{i}": prompt_set for i, prompt_set in enumerate(self.prompts)}
        self.fingerprint = compute_fingerprint("diagnostics", VERSION, self.asked, self.parents)
        self.folder = home / "diagnostics" / self.fingerprint

    def jobs(self) -> list[AnyJob]:
        """What is left to compute; empty when the artifact is complete."""
        if find_artifact(self.home, "diagnostics", self.fingerprint) is not None:
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs: list[AnyJob] = []
        if not self._ceiling_file.exists():
            jobs.append(self._ceiling_job())
        return jobs + [self._edit_job(policy) for policy in self._srpo() if not self._edit_file(policy).exists()]

    def complete(self) -> Artifact:
        """The artifact, from what the jobs wrote."""
        found = find_artifact(self.home, "diagnostics", self.fingerprint)
        if found is not None:
            return found
        with writing(
            self.home, "diagnostics", self.fingerprint, version=VERSION, settings=self.asked, parents=self.parents
        ) as writer:
            if writer.artifact is not None:
                return writer.artifact
            ceilings = parquet.pq.read_table(self._ceiling_file).to_pylist()
            rows = [
                {name: ({"policy_id": policy.fingerprint} | row)[name] for name in CEILINGS.names}
                for policy in self._srpo()
                for row in ceilings
                if row["beta"] == policy.settings["settings"]["beta"]
            ]
            edits = [row for policy in self._srpo() for row in parquet.pq.read_table(self._edit_file(policy)).to_pylist()]
            files = [writer.part_path(0, "ceilings"), writer.part_path(0, "one_edit")]
            parquet.write_rows(files[0], rows, CEILINGS)
            parquet.write_rows(files[1], edits, ONE_EDIT)
            return writer.complete(files, counts={"ceilings": len(rows), "edits": len(edits)})

    def _srpo(self) -> list[Artifact]:
        return [policy for policy in self.policies if policy.settings["method"] == "srpo"]

    @property
    def _ceiling_file(self) -> Path:
        return self.folder / "reference_ceilings.parquet"

    def _edit_file(self, policy: Artifact) -> Path:
        return self.folder / f"edits_{policy.fingerprint}.parquet"

    def _ceiling_job(self) -> CeilingJob:
        return CeilingJob(
            name="ceiling",
            model_folder=str(model_folder(self.reference)),
            dtype=self.model.dtype,
            prompts={p.settings["name"]: [str(path) for path in p.parts()] for p in self.prompts},
            betas=sorted({policy.settings["settings"]["beta"] for policy in self._srpo()}),
            temperature=self.generation.temperature,
            num_revisions=self.generation.num_revisions,
            max_new_tokens=self.generation.max_new_tokens,
            num_prompts=self.settings.num_prompts,
            num_drafts=self.settings.num_drafts,
            num_proposals=self.settings.num_proposals,
            num_chains=self.settings.num_chains,
            seed=self.generation.seed,
            path=str(self._ceiling_file),
        )

    def _edit_job(self, policy: Artifact) -> OneEditJob:
        return OneEditJob(
            name=f"one edit {policy.info['name']}",
            model_folder=str(model_folder(policy)),
            reference_folder=str(model_folder(self.reference)),
            dtype=self.model.dtype,
            policy_id=policy.fingerprint,
            beta=policy.settings["settings"]["beta"],
            seed=self.generation.seed,
            path=str(self._edit_file(policy)),
        )
