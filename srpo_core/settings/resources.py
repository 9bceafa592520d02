"""How the work is spread over memory and processes: it changes no result, so it is never part of a fingerprint."""

from typing import Literal

from pydantic import Field

from srpo_core.settings.base import Settings


class ProcessResources(Settings, title="Resources"):
    """How work is spread over processes. Nothing here or in the classes below changes a number beyond floating-point order."""

    num_processes: int = Field(1, ge=1, le=1024, description="processes of one accelerate launch, one for each device")
    threads_per_process: int | None = Field(None, ge=1, description="CPU threads of one process; none = cores / processes")
    accelerate_config: str | None = Field(
        None,
        description="path of an accelerate config file (FSDP, DeepSpeed), which replaces num_processes; none = num_processes",
    )


class ScoringResources(ProcessResources, title="Resources"):
    """How reading texts with a model is spread over memory and processes."""

    tokens_per_microbatch: int = Field(8192, ge=64, description="tokens of one forward pass, and backward pass where one follows")
    logits_gib: float | None = Field(
        None,
        gt=0,
        description="GiB that the head's logits may take on token tries; completion tokens beyond it are scored in chunks, "
        "computed again in the backward pass, which is slower; none = all at once",
    )


class TrainingResources(ScoringResources, title="Resources"):
    """How training is spread over memory and processes, and what is heard of it."""

    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, more time"
    )
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        default_factory=list, description="where accelerate also sends step metrics", json_schema_extra={"uniqueItems": True}
    )
    log_every: int = Field(10, ge=1, description="optimizer steps between two logged steps")
    checkpoint_every: int = Field(200, ge=1, description="optimizer steps between two checkpoints")


class DecodingResources(ProcessResources, title="Resources"):
    """How writing texts is spread over memory and processes."""

    generation_batch_size: int = Field(64, ge=1, description="prompts decoded together")


class ComparisonResources(ScoringResources, DecodingResources, title="Resources"):
    """How writing texts and reading them again is spread over memory and processes."""


class Resources(TrainingResources, DecodingResources, title="Resources"):
    """How all of the work is spread; no setting here enters a fingerprint."""

    @classmethod
    def of(cls, some: ProcessResources) -> "Resources":
        """`some`, where not all of the work is done, as all."""
        return some if isinstance(some, Resources) else cls.model_validate(some.model_dump())
