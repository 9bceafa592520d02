"""Every setting, its meaning, unit and range, in one place. A wrong value fails here, before any work starts.

Two groups: settings that change numbers (they enter fingerprints) and `Resources`, which only say how the work is spread
over memory and processes (they never do).
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, create_model, model_validator
from pydantic_core import CoreSchema

from srpo_core.form_schema import (
    OneOfKinds,
    Rule,
    Schema,
    absent,
    arrange_model,
    both,
    either,
    explain,
    given,
    implies,
    present,
    title_of,
    within,
)

Label = str | int | float
LABELS_A: list[Label] = ["a", "A", "a1", "1", 1, "model_a"]
LABELS_B: list[Label] = ["b", "B", "a2", "2", 2, "model_b"]
LABELS_TIE: list[Label] = ["tie", "equal", "0", 0, "tie (bothbad)", "both"]
LayoutChoice = Literal["auto", "trie", "packed_trie", "plain"]
Dtype = Literal["float32", "mixed", "bfloat16"]
DraftSelector = Literal["likelihood", "judge", "reward_model"]
DEFAULT_SELECTORS: list[DraftSelector] = ["likelihood", "judge"]
Method = Literal["srpo", "dpo", "ipo", "dpo_both", "ipo_both"]
DEFAULT_METHODS: list[Method] = ["srpo"]
PREFERENCE_METHODS: tuple[Method, ...] = get_args(Method)
JudgePresetName = Literal["tldr-concise", "tldr", "article-concise", "dialogue", "arena-hard", "mtbench-pair"]
PREFERENCE_FORMATS = (
    *("auto", "summarize_from_feedback", "ultrafeedback_binarized", "hh_rlhf", "trl", "arena", "alpaca", "shp", "n_way"),
    "columns",
)
PROMPT_FORMATS = ("auto", "frank", "xsum", "cnn_dailymail", "scitldr", "arena_hard", "plain")


class Settings(BaseModel):
    """Base: unknown keys are refused, values are immutable, and the schema is one that a form can be made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, field_title_generator=title_of)
    form_rules: ClassVar[tuple[Rule, ...]] = ()  # rules about several fields that a schema can state

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        """The schema of this class, arranged as a form."""
        reference = handler(core_schema)
        arrange_model(cls, handler.resolve_ref_schema(reference), cls.form_rules)
        return reference


def _one_or_function(names: tuple[str, ...]) -> str:
    """The pattern of a name among `names`, or of `file.py:function`."""
    return rf"^({'|'.join(names)}|.+\.py:.+)$"


def _choice_or_function(names: tuple[str, ...]) -> Callable[[Schema], None]:
    """Makes a form offer `names` as choices, and a text for `file.py:function` beside them."""

    def arrange(schema: Schema) -> None:
        choices = [{"type": "string", "enum": list(names), "title": "known"}, {"type": "string", "title": "file.py:function"}]
        del schema["type"]
        schema["anyOf"] = choices

    return arrange


class TemplateSettings(Settings, title="Template"):
    """How a prompt, and a prompt with an earlier draft, become text (docs/method.md 1.2a and 1.3)."""

    kind: Literal["tldr", "article", "chat"] = Field(
        "chat", description="tldr and article: a plain text header; chat: the tokenizer's own chat template"
    )
    revision_request: str = Field(
        "Please write a better answer.",
        min_length=1,
        description="chat only: the user turn that follows the draft and asks for a revision",
    )
    system_prompt: str | None = Field(None, description="chat only: a system turn put before every prompt")
    add_bos: bool | None = Field(
        None, description="tldr and article only: begin with the BOS token; none = as the tokenizer does"
    )


class LoraSettings(Settings, title="LoRA adapter"):
    """Low-rank adapters instead of full fine-tuning (peft)."""

    rank: int = Field(16, ge=1, le=1024, description="dimensions of each adapter; more learn more and need more memory")
    alpha: float = Field(32, gt=0, description="the adapter's output is scaled by alpha / rank")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of an adapter's inputs set to zero in training, in [0, 1); 0 for trie and plain layouts to agree",
    )
    target_modules: list[str] | Literal["all-linear"] = Field("all-linear", description="names of the layers that get an adapter")


class SmallModelSettings(Settings, title="Small new model"):
    """A Llama-style model and its tokenizer, made on the spot: for the newsroom, for tests and for trying out a data set."""

    hidden_size: int = Field(128, ge=16, le=8192, description="width in numbers, a multiple of num_heads")
    num_layers: int = Field(2, ge=1, le=128, description="decoder layers")
    num_heads: int = Field(4, ge=1, description="attention heads of a layer")
    vocab_size: int = Field(1024, ge=300, description="at most so many byte-pair tokens, learned from the training texts")
    seed: int = Field(0, ge=0, description="of the first weights")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "SmallModelSettings":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"expected hidden_size to be a multiple of num_heads, found {self.hidden_size} and {self.num_heads}")
        return self


ONE_ORIGIN = "expected exactly one of name_or_path and small"
REVISION_OF_A_HUB_MODEL = "expected no revision beside small, which has none"


class ModelSettings(Settings, title="Model"):
    """Which weights to start from."""

    form_rules = (
        Rule({"oneOf": [given("name_or_path"), given("small")]}, ONE_ORIGIN),
        Rule(implies(given("small"), absent("revision")), REVISION_OF_A_HUB_MODEL),
    )

    name_or_path: str | None = Field(None, description="a folder or a hub id; none = `small`")
    revision: str | None = Field(None, description="a hub commit, branch or tag; it is resolved to a commit")
    small: SmallModelSettings | None = Field(None, description="instead of a folder or hub id: a new model for the data at hand")
    dtype: Dtype = Field(
        "float32", description="mixed: float32 weights and bfloat16 arithmetic; bfloat16: both bfloat16, for LoRA"
    )
    max_length: int = Field(2048, ge=16, description="tokens of prompt plus completion; the prompt is truncated to fit")

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelSettings":
        if (self.name_or_path is None) == (self.small is None):
            found = "both" if self.small else "neither"
            raise ValueError(f"{ONE_ORIGIN}, found {found}")
        if self.small is not None and self.revision is not None:
            raise ValueError(f"{REVISION_OF_A_HUB_MODEL}, found {self.revision}")
        return self


class OptimizerSettings(Settings):
    """AdamW with linear warm-up and cosine decay to zero."""

    learning_rate: float = Field(2e-6, gt=0, le=1, description="per optimizer step, at its peak after the warm-up")
    num_steps: int | None = Field(None, ge=1, description="optimizer steps; none = num_epochs over the data")
    num_epochs: float = Field(1.0, gt=0, description="passes over the data when num_steps is none")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising learning rate, in [0, 1)")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled decay, times the learning rate per step")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients, in [0, 1)")
    adam_beta2: float = Field(0.98, ge=0, lt=1, description="decay of the mean of squared gradients, in [0, 1)")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient norm above which gradients are scaled down")


class SupervisedSettings(OptimizerSettings, title="Supervised training"):
    """`train --method sft`: imitate demonstrations in the draft and the revision prompt; the result is the reference."""

    learning_rate: float = Field(2e-5, gt=0, le=1, description="per optimizer step, at its peak after the warm-up")
    examples_per_step: int = Field(64, ge=1, description="demonstrations in one optimizer step, over all processes")
    shuffle: bool = Field(True, description="false = in file order, which lets the data carry a curriculum")
    lora: LoraSettings | None = Field(None, description="train an adapter; none = all weights")
    seed: int = Field(0, ge=0, description="of the order of the data and of dropout")


class TrainingSettings(OptimizerSettings, title="Training"):
    """How policies are trained on pairs against the reference, whatever the method."""

    alpha: float = Field(
        2 / 3,
        gt=0,
        lt=1,
        description="srpo only: weight of the self-improvement loss in (1-alpha) L + alpha L_dagger, the normalised form of "
        "docs/method.md 1.2 (the public code's alpha .8 is 2/3 here)",
    )
    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference; a policy tilts it by at most e^(1/beta)")
    logp_reduction: Literal["sum", "mean"] = Field(
        "sum", description="a completion's log-prob summed or averaged over its tokens"
    )
    loss_scale: Literal["paper", "unit_gradient"] = Field(
        "paper",
        description="unit_gradient multiplies the loss by the constant (1/beta for srpo and dpo, beta for ipo) that makes its "
        "gradient per nat of order one, so that one learning rate and clipping norm serve every method",
    )
    pairs_per_step: int = Field(32, ge=1, description="pairs in one optimizer step, over all processes and accumulation")
    layout: LayoutChoice = Field(
        "auto",
        description="trie: one token tree per pair; packed_trie: several trees in a row, by flex_attention (CUDA); plain: one "
        "sequence per log-prob; auto: trie where a self-test passes and it saves tokens, else plain",
    )
    lora: LoraSettings | None = Field(None, description="train an adapter; none = all weights")
    seed: int = Field(0, ge=0, description="of the order of the data and of dropout")


class PreferenceSettings(TrainingSettings, title="Training"):
    """`train --method srpo|dpo|ipo|dpo_both|ipo_both`: one policy trained on pairs against the reference."""

    method: Method = Field(
        "srpo",
        description="the loss; the methods with _both put it on the draft and the revision prompt",
        json_schema_extra={"position": -1},
    )


def _may_differ(*names: str) -> dict[str, Any]:
    """Fields of TrainingSettings as they stand in the settings of one method: none = as in training."""
    fields: dict[str, Any] = {}
    for name in names:
        info = TrainingSettings.model_fields[name]
        limited: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        fields[name] = (
            limited | None,
            Field(None, description=f"{(info.description or '').partition('; none =')[0]}; none = as in training"),
        )
    return fields


_DIFFERING = _may_differ(*(name for name in TrainingSettings.model_fields if name not in ("alpha", "layout")))
_SHOWN: dict[str, Any] = {
    "__base__": Settings,
    "__cls_kwargs__": {"title": "Own settings"},
    "__doc__": "What differs from training.",
}
MethodSettings = create_model("MethodSettings", **_SHOWN, **_DIFFERING)
SrpoSettings = create_model("SrpoSettings", **_SHOWN, **_may_differ("alpha"), **_DIFFERING)


class PerMethodSettings(Settings, title="Settings of single methods"):
    """What differs from `training` for one of the methods."""

    srpo: SrpoSettings | None = Field(None, title="srpo", description="none = as in training")  # type: ignore[valid-type]
    dpo: MethodSettings | None = Field(None, title="dpo", description="none = as in training")  # type: ignore[valid-type]
    ipo: MethodSettings | None = Field(None, title="ipo", description="none = as in training")  # type: ignore[valid-type]
    dpo_both: MethodSettings | None = Field(None, title="dpo_both", description="none = as in training")  # type: ignore[valid-type]
    ipo_both: MethodSettings | None = Field(None, title="ipo_both", description="none = as in training")  # type: ignore[valid-type]

    def given(self) -> dict[str, dict[str, Any]]:
        """The settings that differ, by method."""
        return {
            method: own.model_dump(exclude_none=True) for method in get_args(Method) if (own := getattr(self, method)) is not None
        }


class GenerationSettings(Settings, title="Drafts and revisions"):
    """Drafts and their self-revisions."""

    num_revisions: int = Field(5, ge=0, le=50, description="revisions after the first draft")
    num_samples: int = Field(1, ge=1, description="independent chains per prompt")
    temperature: float = Field(1.0, ge=0, le=10, description="logits are divided by it; 0 = the likeliest token each time")
    top_p: float = Field(1.0, gt=0, le=1, description="probability mass that is sampled from, in (0, 1]; 1 = all tokens")
    max_new_tokens: int = Field(256, ge=1, description="tokens, including the stop token")
    seed: int = Field(0, ge=0, description="each prompt and sample derives its own from it")


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


TWO_TEXTS = "expected either chosen and rejected, or text_a, text_b and one of label and votes"
_BY_ROLE = both(given("chosen"), given("rejected"))
_BY_LABEL = both(given("text_a"), given("text_b"), either(given("label"), given("votes")))


class ColumnMapping(Settings, title="Columns"):
    """Which columns of an unrecognised file hold what; give either chosen and rejected, or text_a, text_b and a label."""

    form_rules = (Rule({"oneOf": [_BY_ROLE, _BY_LABEL]}, TWO_TEXTS),)

    prompt: str | list[str] = Field(description="column with the prompt, or several to join")
    chosen: str | None = Field(None, description="column with the preferred text")
    rejected: str | None = Field(None, description="column with the other text")
    text_a: str | None = Field(None, description="column with the first text")
    text_b: str | None = Field(None, description="column with the second text")
    label: str | None = Field(None, description="column with the preferred side")
    label_a: list[Label] = Field(default_factory=lambda: list(LABELS_A), description="values that say text_a is preferred")
    label_b: list[Label] = Field(default_factory=lambda: list(LABELS_B), description="values that say text_b is preferred")
    label_tie: list[Label] = Field(
        default_factory=lambda: list(LABELS_TIE),
        description="values that say neither is preferred",
    )
    votes: str | None = Field(None, description="column with a list of labels, one per vote")
    cluster: str | None = Field(None, description="column that groups rows which must stay in one split")
    join_with: str = Field(" ", description="put between the items where a column is a list of sentences")

    @model_validator(mode="after")
    def _two_texts_and_a_preference(self) -> "ColumnMapping":
        by_role = self.chosen is not None and self.rejected is not None
        by_label = self.text_a is not None and self.text_b is not None and (self.label is not None or self.votes is not None)
        if by_role == by_label:
            raise ValueError(f"{TWO_TEXTS}; found both or neither")
        return self


COLUMNS_WITHOUT_A_FORMAT = "expected format auto or columns beside columns"


class PreferenceSourceSettings(Settings, title="Preference pairs"):
    """Where preference pairs come from (`srpo ingest`)."""

    form_rules = (Rule(implies(given("columns"), within("format", {"enum": ["auto", "columns"]})), COLUMNS_WITHOUT_A_FORMAT),)

    paths: list[str] = Field(min_length=1, description="files, folders, globs, or hub:<dataset id>[@revision][:config][/split]")
    format: str = Field(
        "auto",
        description="how rows are read: auto = by their columns, columns = by the mapping below, or a function of your own",
        pattern=_one_or_function(PREFERENCE_FORMATS),
        json_schema_extra=_choice_or_function(PREFERENCE_FORMATS),
    )
    columns: ColumnMapping | None = Field(
        None, description="which column holds what, for a file of no known format; none = known"
    )
    domain: str = Field(
        "unknown", description="what the texts are about; an evaluation set of another domain is out of distribution"
    )
    max_rows: int | None = Field(None, ge=1, description="read at most this many source rows per path")
    validation_share: float = Field(0.05, ge=0, lt=1, description="share of the clusters held out for validation, in [0, 1)")
    test_share: float = Field(0.0, ge=0, lt=1, description="share of the clusters held out for testing, in [0, 1)")
    cluster_by: Literal["prompt", "column"] = Field(
        "prompt", description="what must stay in one split: rows of one prompt, or of one value of columns.cluster"
    )
    seed: int = Field(0, ge=0, description="of the split")

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "PreferenceSourceSettings":
        if self.validation_share + self.test_share >= 1:
            raise ValueError(f"expected validation_share + test_share below 1, found {self.validation_share + self.test_share:g}")
        return self

    @model_validator(mode="after")
    def _columns_that_are_read(self) -> "PreferenceSourceSettings":
        if self.columns is not None and self.format not in ("auto", "columns"):
            raise ValueError(f"{COLUMNS_WITHOUT_A_FORMAT}, found {self.format}")
        return self


class PromptSourceSettings(Settings, title="Evaluation set"):
    """Where one evaluation set comes from (`srpo ingest-prompts`)."""

    name: str = Field(min_length=1, description="the evaluation set's name in every table")
    path: str = Field(description="a file, a folder, a glob, or hub:<dataset id>[@revision][:config][/split]")
    format: str = Field(
        "auto",
        description="how rows are read: auto = by their columns, or a function of your own",
        pattern=_one_or_function(PROMPT_FORMATS),
        json_schema_extra=_choice_or_function(PROMPT_FORMATS),
    )
    domain: str = Field("unknown", description="what the prompts are about; compared with the training pairs' domain")
    opponent_path: str | None = Field(None, description="answers of a named opponent, joined by id and used as gold")
    max_prompts: int | None = Field(None, ge=1, description="the first so many prompts")


class NewsroomSettings(Settings, title="Newsroom"):
    """The embedded default world; see docs/newsroom.md."""

    num_demonstrations: int = Field(160_000, ge=100, le=10_000_000, description="demonstrations for the supervised stage")
    num_pairs: int = Field(8_000, ge=10, le=10_000_000, description="preference pairs")
    votes_per_pair: int = Field(5, ge=1, description="votes on each pair, one annotator each")
    num_prompts: int = Field(200, ge=10, le=1_000_000, description="evaluation prompts per set")
    seed: int = Field(0, ge=0, description="of the whole world")


class DemonstrationSettings(Settings, title="Demonstrations"):
    """What the supervised stage imitates: a file of demonstrations, or the preference pairs themselves."""

    path: str | None = Field(
        None, description="JSON lines with prompt, completion and optionally draft; none = made from the preferences"
    )
    revisions: Literal["both_ways", "improve", "none"] = Field(
        "both_ways",
        description="how preference pairs become revision examples: both_ways = rejected to chosen and back, so that the "
        "reference's revisions edit neutrally; improve = rejected to chosen only",
    )


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
        None, description="names of the evaluation sets to use; none = all (of the newsroom: id, long, mix)"
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
        "is not better by the margin",
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
        0.1, ge=0, le=1, description="guard: by how much the share of empty, repeated or copied texts may grow, in [0, 1]"
    )
    regression_tolerance: float = Field(
        0.02, ge=0, lt=1, description="guard: in win rate; refused when an evaluation set is worse by more for certain (95 %)"
    )
    min_scored_share: float = Field(
        0.9, gt=0, le=1, description="guard: share of each set's prompts that the judge must have scored for both sides"
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
        1, ge=0, description="pairs that the champion was not trained on, below which nothing is trained; 0 = train without any"
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


def parse_settings(model: type[BaseModel], values: dict[str, Any], where: str) -> Any:
    """Validate `values`; raise InputError naming the first wrong field, what was found and what is allowed."""
    from srpo_core.errors import InputError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, model, values, where)) from error
