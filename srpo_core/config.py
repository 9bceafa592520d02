"""Every setting, its meaning, unit and range, in one place. A wrong value fails here, before any work starts.

Two groups: settings that change numbers (they enter fingerprints) and `Resources`, which only say how the work is spread
over memory and processes (they never do).
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Label = str | int | float
LABELS_A: list[Label] = ["a", "A", "a1", "1", 1, "model_a"]
LABELS_B: list[Label] = ["b", "B", "a2", "2", 2, "model_b"]
LABELS_TIE: list[Label] = ["tie", "equal", "0", 0, "tie (bothbad)", "both"]
LayoutChoice = Literal["auto", "trie", "packed_trie", "plain"]
Dtype = Literal["float32", "mixed", "bfloat16"]
DraftSelector = Literal["likelihood", "judge", "reward_model"]
DEFAULT_SELECTORS: list[DraftSelector] = ["likelihood", "judge"]
Method = Literal["sft", "srpo", "dpo", "ipo", "dpo_both", "ipo_both"]
DEFAULT_METHODS: list[Method] = ["srpo"]
PREFERENCE_METHODS: tuple[Method, ...] = ("srpo", "dpo", "ipo", "dpo_both", "ipo_both")


class Settings(BaseModel):
    """Base: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TemplateSettings(Settings):
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


class LoraSettings(Settings):
    """Low-rank adapters instead of full fine-tuning (peft)."""

    rank: int = Field(16, ge=1, description="dimensions of each adapter")
    alpha: float = Field(32, gt=0, description="the adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="must be 0 for trie and plain layouts to agree exactly")
    target_modules: list[str] | Literal["all-linear"] = Field("all-linear", description="names of the layers that get an adapter")


class SmallModelSettings(Settings):
    """A Llama-style model and its tokenizer, made on the spot: for the newsroom, for tests and for trying out a data set."""

    hidden_size: int = Field(128, ge=16, description="width, a multiple of num_heads")
    num_layers: int = Field(2, ge=1, description="decoder layers")
    num_heads: int = Field(4, ge=1, description="attention heads of a layer")
    vocab_size: int = Field(1024, ge=300, description="at most so many byte-pair tokens, learned from the training texts")
    seed: int = Field(0, ge=0, description="of the first weights")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "SmallModelSettings":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"expected hidden_size to be a multiple of num_heads, found {self.hidden_size} and {self.num_heads}")
        return self


class ModelSettings(Settings):
    """Which weights to start from."""

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
            raise ValueError(f"expected exactly one of name_or_path and small, found {found}")
        return self


class OptimizerSettings(Settings):
    """AdamW with linear warm-up and cosine decay to zero."""

    learning_rate: float = Field(2e-6, gt=0, description="at its peak, after the warm-up")
    num_steps: int | None = Field(None, ge=1, description="optimizer steps; none = num_epochs over the data")
    num_epochs: float = Field(1.0, gt=0, description="passes over the data when num_steps is none")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled decay, times the learning rate per step")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients, in [0, 1)")
    adam_beta2: float = Field(0.98, ge=0, lt=1, description="decay of the mean of squared gradients, in [0, 1)")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient norm above which gradients are scaled down")


class SupervisedSettings(OptimizerSettings):
    """`train --method sft`: imitate demonstrations in the draft and the revision prompt; the result is the reference."""

    learning_rate: float = Field(2e-5, gt=0, description="at its peak, after the warm-up")
    examples_per_step: int = Field(64, ge=1, description="demonstrations in one optimizer step, over all processes")
    shuffle: bool = Field(True, description="false = in file order, which lets the data carry a curriculum")
    lora: LoraSettings | None = Field(None, description="train an adapter; none = all weights")
    seed: int = Field(0, ge=0, description="of the order of the data and of dropout")


class PreferenceSettings(OptimizerSettings):
    """`train --method srpo|dpo|ipo|dpo_both|ipo_both`: one policy trained on pairs against the reference."""

    method: Method = Field("srpo", description="the loss; the methods with _both put it on the draft and the revision prompt")
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

    @model_validator(mode="after")
    def _method_is_a_preference_method(self) -> "PreferenceSettings":
        if self.method == "sft":
            raise ValueError(
                "expected a preference method (srpo, dpo, ipo, dpo_both, ipo_both), found sft; use the supervised section"
            )
        return self


class GenerationSettings(Settings):
    """Drafts and their self-revisions."""

    num_revisions: int = Field(5, ge=0, le=50, description="revisions after the first draft")
    num_samples: int = Field(1, ge=1, description="independent chains per prompt")
    temperature: float = Field(1.0, ge=0, description="0 = greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="probability mass that is sampled from, in (0, 1]; 1 = all tokens")
    max_new_tokens: int = Field(256, ge=1, description="tokens, including the stop token")
    seed: int = Field(0, ge=0, description="each prompt and sample derives its own from it")


class RuleJudgeSettings(Settings):
    """The exact judge of the newsroom, which knows the facts; its score is a probability."""

    kind: Literal["rule"] = Field("rule", description="the newsroom's exact judge")


class BudgetSettings(Settings):
    """What one run may spend on a model judge. It stops before the first request that could go beyond; run again to go on."""

    max_requests: int | None = Field(None, ge=1, description="requests sent, further attempts included; none = no limit")
    max_tokens: int | None = Field(None, ge=1, description="tokens of prompts and replies; none = no limit")
    max_cost: float | None = Field(
        None, gt=0, description="in the currency of the judge's prices, which it needs; none = no limit"
    )


class ApiJudgeSettings(Settings):
    """A model behind an OpenAI-compatible HTTP endpoint. The key is read from the environment, never from a setting."""

    kind: Literal["api"] = Field("api", description="a model behind an HTTP address")
    model: str = Field(min_length=1, description="the model's name as the server knows it")
    base_url: str | None = Field(None, description="for example http://127.0.0.1:8000/v1; none = the client's own default")
    api_key_variable: str = Field("OPENAI_API_KEY", description="name of the environment variable that holds the key")
    preset: str = Field("tldr-concise", description="named judge prompt, see srpo_core/judging/judge_presets.py")
    max_concurrency: int = Field(16, ge=1, le=1024, description="requests in flight at once")
    requests_per_minute: float | None = Field(
        None, gt=0, description="over all runs on a home that ask this model at this address; none = no limit"
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, description="of prompts and replies, over all runs on a home as above; none = no limit"
    )
    repeats: int = Field(1, ge=1, description="how often each question is really asked, to measure the judge's own noise")
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
    budget: BudgetSettings = Field(
        default_factory=lambda: BudgetSettings.model_validate({}), description="hard limits of what one run may spend"
    )
    temperature: float | None = Field(0.0, ge=0, description="none = not sent, for models that refuse it")
    max_tokens: int | None = Field(512, ge=1, description="none = not sent")
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
    def _a_budget_that_can_be_held(self) -> "ApiJudgeSettings":
        priced = None not in (self.price_per_million_prompt_tokens, self.price_per_million_completion_tokens)
        if self.budget.max_cost is not None and not priced:
            raise ValueError("expected both prices beside budget.max_cost, found one missing; state what a million tokens cost")
        if self.max_tokens is None and (self.budget.max_cost is not None or self.budget.max_tokens is not None):
            raise ValueError("expected max_tokens beside a budget of tokens or cost, found none; a reply could have any length")
        return self


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


class RewardModelJudgeSettings(LocalJudgeSettings):
    """A reward model: a sequence classifier that scores each text by itself; score = sigmoid of the rewards' difference."""

    kind: Literal["reward_model"] = Field("reward_model", description="a local sequence classifier")
    temperature: float = Field(1.0, gt=0, description="the difference of rewards is divided by it; 1 = Bradley-Terry")
    good_label: str | None = Field(
        None,
        description="for a classifier of several labels: the one whose log-odds against all others is the reward; none = the "
        "classifier has a single output, the reward",
    )


class LabelModelJudgeSettings(LocalJudgeSettings):
    """A causal language model that is asked the preset's question and whose probabilities of the labels are the verdict."""

    kind: Literal["label_model"] = Field("label_model", description="a local language model that chooses between labels")
    preset: str = Field("tldr-concise", description="named judge prompt, see srpo_core/judging/judge_presets.py")


JudgeSettings = Annotated[
    RuleJudgeSettings | ApiJudgeSettings | RewardModelJudgeSettings | LabelModelJudgeSettings, Field(discriminator="kind")
]
JUDGE_KINDS = ("rule", "api", "reward_model", "label_model")


class Resources(Settings):
    """How the work is spread; nothing here changes a number beyond floating-point order, so nothing enters a fingerprint."""

    num_processes: int = Field(1, ge=1, description="processes of one accelerate launch")
    threads_per_process: int | None = Field(None, ge=1, description="CPU threads of one process; none = cores / processes")
    tokens_per_microbatch: int = Field(8192, ge=64, description="tokens of one forward and backward pass")
    logits_gib: float | None = Field(
        None,
        gt=0,
        description="GiB that the head's logits may take on token tries; completion tokens beyond it are scored in chunks, "
        "computed again in the backward pass, which is slower; none = all at once",
    )
    generation_batch_size: int = Field(64, ge=1, description="prompts decoded together")
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, more time"
    )
    accelerate_config: str | None = Field(None, description="an accelerate config file (FSDP, DeepSpeed); replaces num_processes")
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        default_factory=list, description="where accelerate also sends step metrics"
    )
    log_every: int = Field(10, ge=1, description="optimizer steps between two logged steps")
    checkpoint_every: int = Field(200, ge=1, description="optimizer steps between two checkpoints")


class ColumnMapping(Settings):
    """Which columns of an unrecognised file hold what; give either chosen and rejected, or text_a, text_b and a label."""

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
            raise ValueError(
                "expected either chosen and rejected, or text_a, text_b and one of label and votes; found both or neither"
            )
        return self


class PreferenceSourceSettings(Settings):
    """Where preference pairs come from (`srpo ingest`)."""

    paths: list[str] = Field(min_length=1, description="files, folders, globs, or hub:<dataset id>[@revision][:config][/split]")
    format: str = Field("auto", description="auto, a format's name, columns, or file.py:function")
    columns: ColumnMapping | None = Field(None, description="with format columns: which column holds what")
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


class PromptSourceSettings(Settings):
    """Where one evaluation set comes from (`srpo ingest-prompts`)."""

    name: str = Field(min_length=1, description="the evaluation set's name in every table")
    path: str = Field(description="a file, a folder, a glob, or hub:<dataset id>[@revision][:config][/split]")
    format: str = Field("auto", description="auto, xsum, cnn_dailymail, scitldr, arena_hard, frank, plain, or file.py:function")
    domain: str = Field("unknown", description="what the prompts are about; compared with the training pairs' domain")
    opponent_path: str | None = Field(None, description="answers of a named opponent, joined by id and used as gold")
    max_prompts: int | None = Field(None, ge=1, description="the first so many prompts")


class NewsroomSettings(Settings):
    """The embedded default world; see docs/newsroom.md."""

    num_demonstrations: int = Field(160_000, ge=100, description="demonstrations for the supervised stage")
    num_pairs: int = Field(8_000, ge=10, description="preference pairs")
    votes_per_pair: int = Field(5, ge=1, description="votes on each pair, one annotator each")
    num_prompts: int = Field(200, ge=10, description="evaluation prompts per set")
    seed: int = Field(0, ge=0, description="of the whole world")


class DemonstrationSettings(Settings):
    """What the supervised stage imitates: a file of demonstrations, or the preference pairs themselves."""

    path: str | None = Field(
        None, description="JSON lines with prompt, completion and optionally draft; none = made from the preferences"
    )
    revisions: Literal["both_ways", "improve", "none"] = Field(
        "both_ways",
        description="how preference pairs become revision examples: both_ways = rejected to chosen and back, so that the "
        "reference's revisions edit neutrally; improve = rejected to chosen only",
    )


class DiagnosticsSettings(Settings):
    """What is computed where the true preferences are known (newsroom only)."""

    num_prompts: int = Field(32, ge=4, description="evaluation prompts per set for the ceiling")
    num_drafts: int = Field(16, ge=2, description="reference drafts per prompt that the optimum chooses from")
    num_proposals: int = Field(16, ge=2, description="reference revisions per draft that the optimum chooses from")
    num_chains: int = Field(4, ge=1, description="chains of revisions per prompt")


class EqualComputeSettings(Settings):
    """Best of n independent drafts against k revisions, at equal numbers of generated tokens (`srpo equal-compute`)."""

    num_samples: int = Field(8, ge=2, le=256, description="drafts of each prompt; best of n is estimated for every n up to it")
    select: list[DraftSelector] = Field(
        default_factory=lambda: list(DEFAULT_SELECTORS),
        min_length=1,
        description="what picks among the drafts: likelihood = the policy's own log-prob of a draft, summed and per token; "
        "judge = a knock-out between drafts, about samples * log2(samples) games a prompt; reward_model = the highest reward",
    )
    selecting_judge: JudgeSettings | None = Field(
        None, description="who judges the knock-out; none = the judge that also scores the picks, in games of their own"
    )
    reward_model: RewardModelJudgeSettings | None = Field(None, description="what gives the rewards of select reward_model")
    seed: int = Field(0, ge=0, description="of the coin that decides a match without a better draft")

    @model_validator(mode="after")
    def _every_selector_once_and_possible(self) -> "EqualComputeSettings":
        if len(set(self.select)) < len(self.select):
            raise ValueError(f"expected each selector once in select, found {', '.join(self.select)}")
        if ("reward_model" in self.select) != (self.reward_model is not None):
            found = "no reward_model" if self.reward_model is None else f"reward_model and select {', '.join(self.select)}"
            raise ValueError(f"expected reward_model beside select reward_model alone, found {found}; give both or neither")
        return self


class PipelineSettings(Settings):
    """Everything one end-to-end run needs; a preset is this model filled in."""

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
    supervised: SupervisedSettings | None = Field(None, description="none = the model is the reference as it is")
    training: PreferenceSettings = Field(
        default_factory=lambda: PreferenceSettings.model_validate({}), description="how every method is trained"
    )
    methods: list[Method] = Field(
        default_factory=lambda: list(DEFAULT_METHODS), description="policies trained on the pairs, each from the reference"
    )
    per_method: dict[Method, dict[str, Any]] = Field(
        default_factory=dict, description="training settings that differ for one method"
    )
    generation: GenerationSettings = Field(
        default_factory=lambda: GenerationSettings.model_validate({}), description="drafts and revisions on the evaluation sets"
    )
    judge: JudgeSettings = Field(description="who compares the texts with the gold")
    diagnostics: DiagnosticsSettings | None = Field(None, description="newsroom only")
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
            raise ValueError(f"expected exactly one of newsroom and preferences, found {found}")
        if self.newsroom is None and not self.evaluation:
            raise ValueError("expected at least one evaluation set, found none")
        if self.newsroom is None and (self.diagnostics is not None or self.judge.kind == "rule"):
            raise ValueError(
                "expected a judge other than rule and no diagnostics outside the newsroom, where no true preference is known"
            )
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"expected each method once in methods, found {', '.join(self.methods)}")
        unused = sorted(set(self.per_method) - set(self.methods))
        if unused:
            raise ValueError(
                f"expected per_method to name trained methods ({', '.join(self.methods)}), found {', '.join(unused)}"
            )
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
            raise ValueError("expected generation.num_revisions of at least 1 beside equal_compute, found 0; ask for revisions")
        picking = None if asked is None else asked.selecting_judge
        if self.newsroom is None and picking is not None and picking.kind == "rule":
            raise ValueError("expected equal_compute.selecting_judge other than rule outside the newsroom, found rule")
        return self

    def method_settings(self) -> list[PreferenceSettings]:
        """The training settings of each method: `training` with the method's own values put over it."""
        return [self._settings_of(method) for method in self.methods]

    def _settings_of(self, method: Method) -> PreferenceSettings:
        own = self.per_method.get(method, {})
        try:
            return PreferenceSettings.model_validate(self.training.model_dump() | {"method": method} | own)
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(["per_method", method, *map(str, first["loc"])]) if own else f"methods: {method}"
            raise ValueError(f"{path}: {first['msg'].removeprefix('Value error, ')}") from error


def _section(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The settings class that a path of field names leads to; the last one known where it leads further."""
    candidates: list[type[BaseModel]] = []
    for name in path:
        field = model.model_fields.get(str(name))
        if field is None:  # an index, or the kind that says which of several classes it is
            model = next((c for c in candidates if "kind" in c.model_fields and c.model_fields["kind"].default == name), model)
            continue
        inner = [field.annotation, *get_args(field.annotation)]
        candidates = [c for c in inner if isinstance(c, type) and issubclass(c, BaseModel)]
        model = candidates[0] if candidates else model
    return model


def parse_settings(model: type[BaseModel], values: dict[str, Any], where: str) -> Any:
    """Validate `values`; raise InputError naming the first wrong field, what was found and what is allowed."""
    from srpo_core.errors import InputError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        known_tags = set(JUDGE_KINDS) if first["loc"][:1] == ("judge",) else set()  # which kind of judge is no setting's name
        field = ".".join(str(part) for part in first["loc"] if part not in known_tags)
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(_section(model, first["loc"][:-1]).model_fields))
            raise InputError(f"unknown setting {field} in {where}; the settings there are {known}") from error
        found = f", found {first['input']!r}" if not isinstance(first["input"], dict) else ""
        subject = f"setting {field} in {where}" if field else where
        raise InputError(f"{subject}: {first['msg'].removeprefix('Value error, ')}{found}") from error
