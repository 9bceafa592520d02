"""When to train again, and when the new policy takes the old one's place."""

from typing import Literal

from pydantic import Field, model_validator

from srpo_core.form_schema import Rule, absent, present, within
from srpo_core.settings.base import Settings
from srpo_core.settings.pipeline import PipelineSettings


class PromotionSettings(Settings, title="Promotion"):
    """When a newly trained challenger takes the champion's place; docs/retraining.md says what is guaranteed."""

    margin: float = Field(
        0.01, ge=0, lt=1, description="in win rate, .01 = one point: the difference must lie above it for certain"
    )
    screening_level: float = Field(
        0.05, gt=0, lt=0.5, description="one-sided error level of the weekly comparison that opens the way to the confirmation"
    )
    total_error_level: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="probability, over all looks at the confirmation prompts ever taken in a home, that a challenger passes that "
        "is not better by the margin; docs/retraining.md says what that rests on",
    )
    confirmation_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of each evaluation set, by clusters, that is kept for confirmation; choose it once: another share "
        "moves prompts that were looked at every week",
    )
    revision_index: int | None = Field(None, ge=0, description="which revision is compared, 0 = the first draft; none = the last")
    max_length_ratio: float = Field(
        1.5, gt=1, description="guard: mean tokens of the challenger's texts over the champion's, or the inverse, at most so much"
    )
    max_collapse: float = Field(
        0.1,
        ge=0,
        le=1,
        description="guard: by how much the share of empty, repeated or copied texts may grow on an evaluation set, in [0, 1]",
    )
    regression_tolerance: float = Field(
        0.02, ge=0, lt=1, description="guard: in win rate; refused when an evaluation set is worse by more for certain (95 %)"
    )
    min_scored_share: float = Field(
        0.9, gt=0, le=1, description="guard: share of each set's prompts that the judge must have scored for both sides"
    )
    min_clusters: int = Field(
        30,
        ge=2,
        description="guard: clusters of prompts that each part of an evaluation set must have, scored for both sides; with few "
        "of them no difference is certain",
    )
    require_approval: bool = Field(
        False, description="a person confirms each promotion in the UI; the run waits suspended, without a process or a device"
    )
    approval_hours: float = Field(72, gt=0, le=24 * 60, description="how long a suspended run waits for the person, in hours")


class RetrainSettings(Settings, title="Retraining"):
    """What a scheduled retraining does: the pipeline it trains and evaluates with, and when the result is promoted."""

    form_rules = (
        Rule(
            within("pipeline", present("methods", {"minItems": 1, "maxItems": 1})),
            "expected exactly one method in pipeline.methods, the challenger's",
        ),
        *(
            Rule(within("pipeline", absent(name)), f"expected no pipeline.{name} for a retraining, which does not use it")
            for name in ("diagnostics", "equal_compute")
        ),
    )

    pipeline: PipelineSettings = Field(description="data, model, training, revisions and judge, with exactly one method")
    min_new_pairs: int = Field(
        1,
        ge=0,
        description="pairs that the champion was not trained on, and pairs of its own that were withdrawn, below which nothing "
        "is trained; 0 = train without any",
    )
    start_from: Literal["reference", "champion"] = Field(
        "reference",
        description="whose weights training starts from; the pull of beta is to the reference in both cases",
    )
    promotion: PromotionSettings = Field(
        default_factory=lambda: PromotionSettings.model_validate({}), description="when the challenger becomes champion"
    )

    @model_validator(mode="after")
    def _one_challenger_that_can_be_compared(self) -> "RetrainSettings":
        methods, revisions = self.pipeline.methods, self.pipeline.generation.num_revisions
        if len(methods) != 1:
            raise ValueError(
                f"expected exactly one method in pipeline.methods, the challenger's, found {', '.join(methods) or 'none'}"
            )
        for name in ("diagnostics", "equal_compute"):
            if getattr(self.pipeline, name) is not None:
                raise ValueError(f"expected no pipeline.{name} for a retraining, which does not use it, found one; leave it out")
        asked = self.promotion.revision_index
        if asked is not None and asked > revisions:
            raise ValueError(
                f"expected promotion.revision_index of at most pipeline.generation.num_revisions, {revisions}, found {asked}"
            )
        return self

    @property
    def revision_index(self) -> int:
        """The revision that is compared."""
        asked = self.promotion.revision_index
        return self.pipeline.generation.num_revisions if asked is None else asked
