"""What a task asks of the processes it launches: a list of jobs in one JSON file, done in order by one `accelerate launch`.

Each launch costs seconds of imports, so jobs that can run together share one. Paths are absolute; a job says everything.
"""

from typing import Annotated, Literal

from pydantic import Field

from srpo_core.settings.base import Settings
from srpo_core.settings.judges import LabelModelJudgeSettings, RewardModelJudgeSettings
from srpo_core.settings.model import Dtype, GenerationSettings, TemplateSettings
from srpo_core.settings.resources import Resources
from srpo_core.settings.training import LayoutChoice, PreferenceSettings, SupervisedSettings


class Job(Settings):
    """Common to all jobs."""

    name: str = Field(description="shown in progress lines")


class SftJob(Job):
    """Imitate demonstrations; writes model/, training_log.parquet and result.json into `folder`."""

    kind: Literal["sft"] = "sft"
    model_folder: str
    template: TemplateSettings
    max_length: int
    dtype: Dtype
    demonstrations: list[str]
    settings: SupervisedSettings
    decoding: GenerationSettings | None
    folder: str


class ReferenceJob(Job):
    """Compute reference rows of pairs that the store does not hold; writes parts into `store` and nothing else."""

    kind: Literal["reference"] = "reference"
    model_folder: str
    dtype: Dtype
    layout: LayoutChoice
    preferences: list[str]
    splits: list[str]
    store: str
    pairs_per_part: int = 1000


class PreferenceJob(Job):
    """Train on pairs against stored reference rows; writes like SftJob."""

    kind: Literal["preference"] = "preference"
    model_folder: str
    dtype: Dtype
    preferences: list[str]
    left_out: list[str] = Field(description="pair_ids that overlap with an evaluation set")
    reference: list[str]
    settings: PreferenceSettings
    folder: str


class GenerateJob(Job):
    """Write drafts and revisions; one file per batch of prompts into `folder`."""

    kind: Literal["generate"] = "generate"
    model_folder: str
    dtype: Dtype
    policy_id: str
    prompts: list[str]
    settings: GenerationSettings
    folder: str


class JudgeJob(Job):
    """Let a local model answer files of questions; writes a file of answers for each."""

    kind: Literal["judge"] = "judge"
    model_folder: str
    settings: RewardModelJudgeSettings | LabelModelJudgeSettings = Field(discriminator="kind")
    files: dict[str, str] = Field(description="questions -> answers")


class CeilingJob(Job):
    """Estimate the win rate of the exact optimum from samples of the reference (newsroom only); writes `path`."""

    kind: Literal["ceiling"] = "ceiling"
    model_folder: str
    dtype: Dtype
    prompts: dict[str, list[str]] = Field(description="evaluation set -> parts")
    betas: list[float]
    temperature: float
    num_revisions: int
    max_new_tokens: int
    num_prompts: int
    num_drafts: int
    num_proposals: int
    num_chains: int
    seed: int
    path: str


class OneEditJob(Job):
    """Compare F learned with its target on pairs that differ by one edit (newsroom only); writes `path`."""

    kind: Literal["one_edit"] = "one_edit"
    model_folder: str
    reference_folder: str
    dtype: Dtype
    policy_id: str
    beta: float
    num_documents: int = 60
    seed: int = 0
    path: str


class LikelihoodJob(Job):
    """Log-probs of completions as answers to the draft prompt; one file per batch of prompts into `folder`."""

    kind: Literal["likelihood"] = "likelihood"
    model_folder: str
    dtype: Dtype
    prompts: list[str]
    completions: list[str]
    max_new_tokens: int = Field(description="room that generation left behind a prompt")
    folder: str
    prompts_per_part: int = 64


AnyJob = Annotated[
    SftJob | ReferenceJob | PreferenceJob | GenerateJob | JudgeJob | CeilingJob | OneEditJob | LikelihoodJob,
    Field(discriminator="kind"),
]


class JobFile(Settings):
    """The file a launch reads."""

    jobs: list[AnyJob]
    resources: Resources
