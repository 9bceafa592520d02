"""Which weights a run starts from, how prompts become text, and how text is decoded."""

from typing import Literal

from pydantic import Field, model_validator

from srpo_core.form_schema import Rule, absent, given, implies
from srpo_core.settings.base import Settings

Dtype = Literal["float32", "mixed", "bfloat16"]
ADAPTER_FILE = "adapter_config.json"  # peft's; a model folder with it holds an adapter


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


class GenerationSettings(Settings, title="Drafts and revisions"):
    """Drafts and their self-revisions."""

    num_revisions: int = Field(5, ge=0, le=50, description="revisions after the first draft")
    num_samples: int = Field(1, ge=1, description="independent chains per prompt")
    temperature: float = Field(1.0, ge=0, le=10, description="logits are divided by it; 0 = the likeliest token each time")
    top_p: float = Field(1.0, gt=0, le=1, description="probability mass that is sampled from, in (0, 1]; 1 = all tokens")
    max_new_tokens: int = Field(256, ge=1, description="tokens, including the stop token")
    seed: int = Field(0, ge=0, description="each prompt and sample derives its own from it")
