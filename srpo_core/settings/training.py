"""How the reference and the policies are trained."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, create_model

from srpo_core.settings.base import Settings
from srpo_core.settings.model import LoraSettings

LayoutChoice = Literal["auto", "trie", "packed_trie", "plain"]


Method = Literal["srpo", "dpo", "ipo", "dpo_both", "ipo_both"]


DEFAULT_METHODS: list[Method] = ["srpo"]


PREFERENCE_METHODS: tuple[Method, ...] = get_args(Method)


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
