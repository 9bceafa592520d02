"""Settings of equal compute that could not work are refused before anything starts, by name."""

import pytest

from flows.presets import load_preset, override
from srpo_core.errors import InputError
from srpo_core.settings.base import parse_settings
from srpo_core.settings.pipeline import EqualComputeSettings, PipelineSettings


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num_samples": 1}, "setting num_samples in equal_compute"),
        ({"select": []}, "setting select in equal_compute"),
        ({"select": ["judge", "judge"]}, r"\['judge', 'judge'\] has non-unique elements"),
        ({"select": ["reward_model"]}, "expected reward_model beside select reward_model alone, found no reward_model"),
        ({"reward_model": {"model": "m"}}, "found reward_model and select likelihood, judge"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_settings(EqualComputeSettings, values, "equal_compute")


@pytest.mark.parametrize(
    ("preset", "assignments", "sentence"),
    [
        ("demo", ["generation.num_revisions=0"], "expected generation.num_revisions of at least 1 beside equal_compute"),
        ("tldr", ["equal_compute.selecting_judge.kind=rule"], "expected equal_compute.selecting_judge other than rule"),
    ],
)
def test_a_run_that_could_not_end_is_refused_at_its_start(preset: str, assignments: list[str], sentence: str) -> None:
    values = override(load_preset(preset), ["equal_compute.num_samples=4", *assignments])
    with pytest.raises(InputError, match=sentence):
        parse_settings(PipelineSettings, values, preset)


def test_a_run_does_not_ask_unless_told_to() -> None:
    assert PipelineSettings.model_validate(load_preset("demo")).equal_compute is None
