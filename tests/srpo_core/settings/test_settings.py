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
        ("judge={kind: api, model: m, temperature: .nan}", "setting judge.temperature in preset demo: Input should be a finite"),
        ("only_sets=[]", "setting only_sets in preset demo: [] should be non-empty"),
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


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("training.beta=-1", "setting training.beta in preset demo: -1 is less than or equal to the minimum of 0"),
        ("model.small.num_heads=5", "hidden_size to be a multiple of num_heads"),
    ],
)
def test_what_the_settings_make_a_number_of_is_not_blamed_for_another_mistake(wrong: str, sentence: str) -> None:
    """YAML reads 1e-5, without a point, as a text."""
    assert settings("training.learning_rate=1e-5").training.learning_rate == 1e-5
    with pytest.raises(InputError) as caught:
        settings("training.learning_rate=1e-5", wrong)
    assert sentence in str(caught.value) and "learning_rate" not in str(caught.value)


def test_a_name_that_is_no_text_is_named() -> None:
    """In YAML `on: x` has the name True."""
    for name in (True, 1):
        with pytest.raises(InputError, match=f"unknown setting {name} in mine.yaml"):
            parse_settings(PipelineSettings, load_preset("demo") | {name: "x"}, "mine.yaml")


def test_evaluation_sets_of_one_name_are_refused() -> None:
    """A retraining keeps its guards by the set's name, and tables their rows."""
    with pytest.raises(InputError, match="expected evaluation sets of different names, found a, a"):
        parse_settings(
            PipelineSettings, override(load_preset("tldr"), ["evaluation=[{name: a, path: x}, {name: a, path: y}]"]), ""
        )
