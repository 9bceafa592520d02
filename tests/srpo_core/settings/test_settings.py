"""A wrong setting fails at load, in one sentence that names it."""

from typing import Any

import pytest

from flows.presets import load_preset, override
from srpo_core.errors import InputError
from srpo_core.settings.base import parse_settings
from srpo_core.settings.pipeline import PipelineSettings


def settings(*assignments: str) -> Any:
    return parse_settings(PipelineSettings, override(load_preset("demo"), list(assignments)), "preset demo")


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("training.betta=1", "unknown setting training.betta in preset demo: Additional properties are not allowed"),
        ("training.alpha=1", "training.alpha in preset demo: 1 is greater than or equal to the maximum of 1"),
        ("training.beta=0", "training.beta in preset demo: 0 is less than or equal to the minimum of 0"),
        ("training.beta=.inf", "training.beta in preset demo: Input should be a finite number, found inf"),
        ("training.learning_rate=.nan", "training.learning_rate in preset demo: Input should be a finite number, found nan"),
        ("methods=[srpo, srpo]", "setting methods in preset demo: ['srpo', 'srpo'] has non-unique elements"),
        ("methods=[sft]", "setting methods.0 in preset demo: 'sft' is not one of ['srpo', 'dpo', 'ipo', 'dpo_both', 'ipo_both']"),
        ("per_method.dpo.betta=1", "unknown setting per_method.dpo.betta in preset demo: Additional properties are not allowed"),
        ("per_method.dpo_both.beta=1", "per_method to name trained methods (srpo, dpo, ipo), found dpo_both"),
        ("per_method.dpo.alpha=0.5", "unknown setting per_method.dpo.alpha"),
        ("training.method=dpo", "unknown setting training.method"),
        ("evaluation=[{name: a, path: b}]", "expected no evaluation and no demonstrations.path beside the newsroom"),
        ("demonstrations.path=d.jsonl", "beside the newsroom, which brings its own, found demonstrations.path"),
        ("model.dtype=bfloat16", "expected dtype float32 or mixed for full fine-tuning"),
        ("model.small.num_heads=5", "hidden_size to be a multiple of num_heads"),
        ("judge={kind: api, model: m, presett: x}", "presett"),
        (
            "judge={kind: label_model, model: m, temperature: 1}",
            "the settings there are dtype, kind, max_length, model, preset, revision",
        ),
        (
            "judge={kind: reward_model, model: m, temperature: 0}",
            "judge.temperature in preset demo: 0 is less than or equal to the minimum of 0",
        ),
        ("newsroom=null", "expected exactly one of newsroom and preferences"),
    ],
)
def test_a_wrong_setting_is_named(assignment: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        settings(assignment)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_methods_own_settings_stand_over_the_shared_ones() -> None:
    found = settings("training.beta=0.2", "methods=[srpo, dpo]", "per_method.dpo.beta=0.7").method_settings()
    assert [(one.method, one.beta) for one in found] == [("srpo", 0.2), ("dpo", 0.7)]


def test_outside_the_newsroom_every_judge_will_do_but_the_rule() -> None:
    for model in ("api", "reward_model", "label_model"):
        found = parse_settings(PipelineSettings, override(load_preset("tldr"), [f"judge={{kind: {model}, model: m}}"]), "tldr")
        assert found.judge.kind == model
    with pytest.raises(InputError, match="expected a judge other than rule and no diagnostics outside the newsroom"):
        parse_settings(PipelineSettings, override(load_preset("tldr"), ["judge={kind: rule}"]), "tldr")
