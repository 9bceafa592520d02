"""Who compares texts: the rule, a model behind an address, and models on this machine."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from srpo_core.form_schema import OneOfKinds, Rule, both, either, given, implies, present, within
from srpo_core.settings.base import Settings
from srpo_core.settings.model import Dtype

JudgePresetName = Literal["tldr-concise", "tldr", "article-concise", "dialogue", "arena-hard", "mtbench-pair"]


class RuleJudgeSettings(Settings, title="Newsroom's rule"):
    """The exact judge of the newsroom, which knows the facts; its score is a probability."""

    kind: Literal["rule"] = Field("rule", description="the newsroom's exact judge")


class BudgetSettings(Settings, title="Budget"):
    """What one run may spend on a model judge. It stops before the first request that could go beyond; run again to go on."""

    max_requests: int | None = Field(None, ge=1, description="requests sent, further attempts included; none = no limit")
    max_tokens: int | None = Field(None, ge=1, description="tokens of prompts and replies; none = no limit")
    max_cost: float | None = Field(
        None, gt=0, description="in the currency of the judge's prices, which it needs; none = no limit"
    )


COST_NEEDS_PRICES = "expected both prices beside budget.max_cost"


BUDGET_NEEDS_A_LENGTH = "expected max_tokens beside a budget of tokens or cost"


_PRICES = both(given("price_per_million_prompt_tokens"), given("price_per_million_completion_tokens"))


class ServedJudgeSettings(Settings, title="Model behind an HTTP address"):
    """A model behind an OpenAI-compatible HTTP endpoint. The key comes from the environment or a Prefect block."""

    form_rules = (
        Rule(implies(present("budget", given("max_cost")), _PRICES), COST_NEEDS_PRICES),
        Rule(
            implies(
                present("budget", either(given("max_cost"), given("max_tokens"))), within("max_tokens", {"not": {"type": "null"}})
            ),
            BUDGET_NEEDS_A_LENGTH,
        ),
    )

    kind: Literal["api"] = Field("api", description="a model behind an HTTP address")
    model: str = Field(min_length=1, description="the model's name as the server knows it")
    base_url: str | None = Field(None, description="for example http://127.0.0.1:8000/v1; none = the client's own default")
    api_key_variable: str = Field(
        "OPENAI_API_KEY",
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="name of the environment variable that holds the key; where it is not set, the Prefect Secret block of that "
        "name in small letters with dashes (openai-api-key)",
    )
    preset: JudgePresetName = Field(
        "tldr-concise", description="what the judge is asked; the prompts are in srpo_core/judging/judge_presets.py"
    )
    max_concurrency: int = Field(16, ge=1, le=1024, description="requests in flight at once")
    requests_per_minute: float | None = Field(
        None, gt=0, description="over all runs on a home that ask this model at this address; none = no limit"
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, description="of prompts and replies, over all runs on a home as above; none = no limit"
    )
    budget: BudgetSettings = Field(
        default_factory=lambda: BudgetSettings.model_validate({}), description="hard limits of what one run may spend"
    )
    temperature: float | None = Field(
        0.0, ge=0, le=10, description="of the judge's sampling; none = not sent, for models that refuse it"
    )
    max_tokens: int | None = Field(512, ge=1, description="tokens of one reply at most; none = not sent")
    structured: bool = Field(
        True,
        description="ask for a JSON reply by schema; a server that refuses or ignores it is asked to choose between label lines, "
        "else for a last line with the label",
    )
    timeout_seconds: float = Field(60, gt=0, description="longest wait for one reply, in seconds")
    max_attempts: int = Field(4, ge=1, description="tries of one request on a transient fault, with back-off and jitter")
    price_per_million_prompt_tokens: float | None = Field(
        None, ge=0, description="in your currency, for the cost of a run; none = cost unknown"
    )
    price_per_million_completion_tokens: float | None = Field(None, ge=0, description="in your currency; none = cost unknown")

    @model_validator(mode="after")
    def _a_budget_that_can_be_held(self) -> "ServedJudgeSettings":
        priced = None not in (self.price_per_million_prompt_tokens, self.price_per_million_completion_tokens)
        if self.budget.max_cost is not None and not priced:
            raise ValueError(f"{COST_NEEDS_PRICES}, found one missing; state what a million tokens cost")
        if self.max_tokens is None and (self.budget.max_cost is not None or self.budget.max_tokens is not None):
            raise ValueError(f"{BUDGET_NEEDS_A_LENGTH}, found none; a reply could have any length")
        return self


class RepeatedJudgeSettings(ServedJudgeSettings, title="Model behind an HTTP address"):
    """The same where each question may be asked more than once."""

    repeats: int = Field(1, ge=1, description="how often each question is really asked, to measure the judge's own noise")


class ApiJudgeSettings(RepeatedJudgeSettings, title="Model behind an HTTP address"):
    """The same where an evaluation also looks whether the judge has changed."""

    sentinel_games: int = Field(
        0,
        ge=0,
        multiple_of=2,
        description="frozen games asked again at every evaluation, to notice a judge that changed: so many more requests each "
        "time, five times as many at the first; half of them are pairs of texts, each in both orders; 0 = none",
    )
    sentinel_seed: int = Field(
        0,
        ge=0,
        description="of the drawing of the frozen games by lot; another number freezes another set and calibrates the judge "
        "anew, which is what to do after an alarm",
    )


class LocalJudgeSettings(Settings):
    """What the two judges have in common that run on this machine's devices."""

    model: str = Field(min_length=1, description="a folder or a hub id")
    revision: str | None = Field(None, description="a hub commit, branch or tag; it is resolved to a commit")
    dtype: Dtype = Field(
        "float32", description="mixed: float32 weights and bfloat16 arithmetic; bfloat16: both, for half the memory"
    )
    max_length: int | None = Field(
        None,
        ge=16,
        description="tokens the judge reads at once; of a longer question the prompt's last message loses its end, which is "
        "counted, and one that still does not fit is unscored; none = the model's own limit",
    )


class RewardModelJudgeSettings(LocalJudgeSettings, title="Reward model"):
    """A reward model: a sequence classifier that scores each text by itself; score = sigmoid of the rewards' difference."""

    kind: Literal["reward_model"] = Field("reward_model", description="a local sequence classifier")
    temperature: float = Field(1.0, gt=0, description="the difference of rewards is divided by it; 1 = Bradley-Terry")
    good_label: str | None = Field(
        None,
        description="for a classifier of several labels: the one whose log-odds against all others is the reward; none = the "
        "classifier has a single output, the reward",
    )


class LabelModelJudgeSettings(LocalJudgeSettings, title="Language model"):
    """A causal language model that is asked the preset's question and whose probabilities of the labels are the verdict."""

    kind: Literal["label_model"] = Field("label_model", description="a local language model that chooses between labels")
    preset: JudgePresetName = Field(
        "tldr-concise", description="what the judge is asked; the prompts are in srpo_core/judging/judge_presets.py"
    )


# Whom a form offers as judge, with the settings that have an effect there: whole evaluations, single comparisons, and audits.
JudgeSettings = Annotated[
    RuleJudgeSettings | ApiJudgeSettings | RewardModelJudgeSettings | LabelModelJudgeSettings,
    Field(discriminator="kind"),
    OneOfKinds(RuleJudgeSettings, ApiJudgeSettings, RewardModelJudgeSettings, LabelModelJudgeSettings),
]


ScoringJudgeSettings = Annotated[
    RuleJudgeSettings | RepeatedJudgeSettings | RewardModelJudgeSettings | LabelModelJudgeSettings,
    Field(discriminator="kind"),
    OneOfKinds(RuleJudgeSettings, RepeatedJudgeSettings, RewardModelJudgeSettings, LabelModelJudgeSettings),
]


AskedJudgeSettings = Annotated[
    RuleJudgeSettings | ServedJudgeSettings | RewardModelJudgeSettings | LabelModelJudgeSettings,
    Field(discriminator="kind"),
    OneOfKinds(RuleJudgeSettings, ServedJudgeSettings, RewardModelJudgeSettings, LabelModelJudgeSettings),
]


def as_judge(asked: JudgeSettings | ScoringJudgeSettings | AskedJudgeSettings) -> JudgeSettings:
    """A judge of any form as all stages take it: what the form leaves out is at its default."""
    if isinstance(asked, ApiJudgeSettings):
        return asked
    return ApiJudgeSettings.model_validate(asked.model_dump()) if isinstance(asked, ServedJudgeSettings) else asked


class OpponentSettings(Settings, title="Another policy's completions"):
    """Whom completions are judged against instead of the gold texts."""

    completions: str = Field(
        min_length=1, description="id of an artifact of stage completions (srpo ls completions), or a folder"
    )
    revision_index: int = Field(ge=0, description="which of their revisions; 0 = the first draft")
