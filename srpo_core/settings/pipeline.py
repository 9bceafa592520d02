"""Everything one end-to-end run needs, and what it may measure beside the win rates."""

from typing import Literal

from pydantic import Field, model_validator

from srpo_core.form_schema import Rule, Schema, absent, both, either, given, implies, present, within
from srpo_core.settings.base import Settings
from srpo_core.settings.data import DemonstrationSettings, NewsroomSettings, PreferenceSourceSettings, PromptSourceSettings
from srpo_core.settings.judges import AskedJudgeSettings, JudgeSettings, RewardModelJudgeSettings, as_judge
from srpo_core.settings.model import GenerationSettings, ModelSettings, TemplateSettings
from srpo_core.settings.resources import Resources
from srpo_core.settings.training import (
    DEFAULT_METHODS,
    PREFERENCE_METHODS,
    Method,
    PerMethodSettings,
    PreferenceSettings,
    SupervisedSettings,
    TrainingSettings,
)

DraftSelector = Literal["likelihood", "judge", "reward_model"]


DEFAULT_SELECTORS: list[DraftSelector] = ["likelihood", "judge"]


class DiagnosticsSettings(Settings, title="Diagnostics"):
    """What is computed where the true preferences are known (newsroom only)."""

    num_prompts: int = Field(32, ge=4, description="evaluation prompts per set for the ceiling")
    num_drafts: int = Field(16, ge=2, description="reference drafts per prompt that the optimum chooses from")
    num_proposals: int = Field(16, ge=2, description="reference revisions per draft that the optimum chooses from")
    num_chains: int = Field(4, ge=1, description="chains of revisions per prompt")


REWARDS_AND_MODEL = "expected reward_model beside select reward_model alone"


_PICKS_BY_REWARD = present("select", {"contains": {"const": "reward_model"}})


class EqualComputeSettings(Settings, title="Equal compute"):
    """Best of n independent drafts against k revisions, at equal numbers of generated tokens (`srpo equal-compute`)."""

    form_rules = (
        Rule({"if": given("reward_model"), "then": _PICKS_BY_REWARD, "else": {"not": _PICKS_BY_REWARD}}, REWARDS_AND_MODEL),
    )

    num_samples: int = Field(8, ge=2, le=256, description="drafts of each prompt; best of n is estimated for every n up to it")
    select: list[DraftSelector] = Field(
        default_factory=lambda: list(DEFAULT_SELECTORS),
        min_length=1,
        json_schema_extra={"uniqueItems": True},
        description="what picks among the drafts: likelihood = the policy's own log-prob of a draft, summed and per token; "
        "judge = a knock-out between drafts, about samples * log2(samples) games a prompt; reward_model = the highest reward",
    )
    selecting_judge: AskedJudgeSettings | None = Field(
        None, description="who judges the knock-out; none = the judge that also scores the picks, in games of their own"
    )
    reward_model: RewardModelJudgeSettings | None = Field(None, description="what gives the rewards of select reward_model")
    seed: int = Field(0, ge=0, description="of the coin that decides a match without a better draft")

    @property
    def picking_judge(self) -> JudgeSettings | None:
        """The selecting judge as all stages take it."""
        return None if self.selecting_judge is None else as_judge(self.selecting_judge)

    @model_validator(mode="after")
    def _every_selector_once_and_possible(self) -> "EqualComputeSettings":
        if len(set(self.select)) < len(self.select):
            raise ValueError(f"expected each selector once in select, found {', '.join(self.select)}")
        if ("reward_model" in self.select) != (self.reward_model is not None):
            found = "no reward_model" if self.reward_model is None else f"reward_model and select {', '.join(self.select)}"
            raise ValueError(f"{REWARDS_AND_MODEL}, found {found}; give both or neither")
        return self


ONE_SOURCE = "expected exactly one of newsroom and preferences"


SOMETHING_TO_EVALUATE = "expected at least one evaluation set"


TRUE_PREFERENCES = "expected a judge other than rule and no diagnostics outside the newsroom"


OWN_WORLD = "expected no evaluation and no demonstrations.path beside the newsroom, which brings its own"


USED_DEMONSTRATIONS = "expected supervised settings beside demonstrations of your own"


TRAINED_METHODS = "expected per_method to name trained methods"


REVISIONS_TO_COMPARE = "expected generation.num_revisions of at least 1 beside equal_compute"


PICKING_JUDGE = "expected equal_compute.selecting_judge other than rule outside the newsroom"


_OUTSIDE = absent("newsroom")


_RULE = present("kind", {"const": "rule"})


def _is_trained(method: Method) -> Schema:
    trained = present("methods", {"contains": {"const": method}})
    return either(trained, {"not": {"required": ["methods"]}}) if method in DEFAULT_METHODS else trained


class PipelineSettings(Settings, title="Pipeline"):
    """Everything one end-to-end run needs; a preset is this model filled in."""

    form_rules = (
        Rule({"oneOf": [given("newsroom"), given("preferences")]}, ONE_SOURCE),
        Rule(either(given("newsroom"), present("evaluation", {"minItems": 1})), SOMETHING_TO_EVALUATE),
        Rule(implies(_OUTSIDE, both(absent("diagnostics"), within("judge", {"not": _RULE}))), TRUE_PREFERENCES),
        Rule(
            implies(
                given("newsroom"), {"allOf": [within("evaluation", {"maxItems": 0}), within("demonstrations", absent("path"))]}
            ),
            OWN_WORLD,
        ),
        Rule(
            implies(
                absent("supervised"),
                within("demonstrations", both(absent("path"), within("revisions", {"const": "both_ways"}))),
            ),
            USED_DEMONSTRATIONS,
        ),
        *(Rule(implies(present("per_method", given(one)), _is_trained(one)), TRAINED_METHODS) for one in PREFERENCE_METHODS),
        Rule(
            implies(given("equal_compute"), within("generation", within("num_revisions", {"minimum": 1}))), REVISIONS_TO_COMPARE
        ),
        Rule(implies(_OUTSIDE, within("equal_compute", within("selecting_judge", {"not": _RULE}))), PICKING_JUDGE),
    )

    name: str = Field("run", min_length=1, description="shown in run names and reports")
    newsroom: NewsroomSettings | None = Field(None, description="the embedded world instead of preferences and evaluation")
    preferences: PreferenceSourceSettings | None = Field(None, description="where the pairs come from; none = the newsroom")
    demonstrations: DemonstrationSettings = Field(
        default_factory=lambda: DemonstrationSettings.model_validate({}), description="what the supervised stage imitates"
    )
    evaluation: list[PromptSourceSettings] = Field(
        default_factory=list, description="evaluation sets; the newsroom brings its own"
    )
    only_sets: list[str] | None = Field(
        None, min_length=1, description="names of the evaluation sets to use; none = all (of the newsroom: id, long, mix)"
    )
    model: ModelSettings = Field(description="the weights to start from")
    template: TemplateSettings = Field(
        default_factory=lambda: TemplateSettings.model_validate({}), description="how prompts and drafts become text"
    )
    supervised: SupervisedSettings | None = Field(
        None, description="train the reference on demonstrations first; none = the model is the reference as it is"
    )
    training: TrainingSettings = Field(
        default_factory=lambda: TrainingSettings.model_validate({}), description="how every method is trained"
    )
    methods: list[Method] = Field(
        default_factory=lambda: list(DEFAULT_METHODS),
        min_length=1,
        description="policies trained on the pairs, each from the reference",
        json_schema_extra={"uniqueItems": True},
    )
    per_method: PerMethodSettings = Field(
        default_factory=lambda: PerMethodSettings.model_validate({}), description="training settings that differ for one method"
    )
    generation: GenerationSettings = Field(
        default_factory=lambda: GenerationSettings.model_validate({}), description="drafts and revisions on the evaluation sets"
    )
    judge: JudgeSettings = Field(description="who compares the texts with the gold")
    diagnostics: DiagnosticsSettings | None = Field(
        None, description="compare with the best that is possible, which only the newsroom knows; none = not asked"
    )
    equal_compute: EqualComputeSettings | None = Field(
        None, description="compare every trained policy's revisions with best of n drafts; none = not asked"
    )
    resources: Resources = Field(
        default_factory=lambda: Resources.model_validate({}), description="how the work is spread over memory and processes"
    )

    @model_validator(mode="after")
    def _one_source_of_data(self) -> "PipelineSettings":
        if (self.newsroom is None) == (self.preferences is None):
            found = "both" if self.preferences else "neither"
            raise ValueError(f"{ONE_SOURCE}, found {found}")
        if self.newsroom is None and not self.evaluation:
            raise ValueError(f"{SOMETHING_TO_EVALUATE}, found none")
        names = [one.name for one in self.evaluation]
        if len(set(names)) < len(names):
            raise ValueError(f"expected evaluation sets of different names, found {', '.join(names)}")
        if self.newsroom is None and (self.diagnostics is not None or self.judge.kind == "rule"):
            raise ValueError(f"{TRUE_PREFERENCES}, where no true preference is known")
        if self.newsroom is not None and (self.evaluation or self.demonstrations.path is not None):
            found = "evaluation" if self.evaluation else "demonstrations.path"
            raise ValueError(f"{OWN_WORLD}, found {found}")
        if self.supervised is None and self.demonstrations != DemonstrationSettings.model_validate({}):
            raise ValueError(f"{USED_DEMONSTRATIONS}, found supervised none")
        return self

    @model_validator(mode="after")
    def _methods_that_can_be_trained(self) -> "PipelineSettings":
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"expected each method once in methods, found {', '.join(self.methods)}")
        unused = sorted(set(self.per_method.given()) - set(self.methods))
        if unused:
            raise ValueError(f"{TRAINED_METHODS} ({', '.join(self.methods)}), found {', '.join(unused)}")
        trained = [self.supervised, *self.method_settings()]
        if self.model.dtype == "bfloat16" and any(one is not None and one.lora is None for one in trained):
            raise ValueError(
                "expected dtype float32 or mixed for full fine-tuning, found bfloat16, whose steps round away; or set lora"
            )
        return self

    @model_validator(mode="after")
    def _a_prompt_has_room(self) -> "PipelineSettings":
        room, asked = self.model.max_length, self.generation.max_new_tokens
        if asked >= room:
            raise ValueError(
                f"expected generation.max_new_tokens below model.max_length, {room} tokens with the prompt, found {asked}"
            )
        return self

    @model_validator(mode="after")
    def _equal_compute_is_possible(self) -> "PipelineSettings":
        asked = self.equal_compute
        if asked is not None and self.generation.num_revisions < 1:
            raise ValueError(f"{REVISIONS_TO_COMPARE}, found 0; ask for revisions")
        picking = None if asked is None else asked.selecting_judge
        if self.newsroom is None and picking is not None and picking.kind == "rule":
            raise ValueError(f"{PICKING_JUDGE}, found rule")
        return self

    def method_settings(self) -> list[PreferenceSettings]:
        """The training settings of each method: `training` with the method's own values put over it."""
        own = self.per_method.given()
        shared = self.training.model_dump()
        return [PreferenceSettings.model_validate(shared | {"method": one} | own.get(one, {})) for one in self.methods]
