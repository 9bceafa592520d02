"""Every deployment in prefect.yaml loads, has a form that refuses what its settings refuse, and says what its preset says.

That its keys are known and its parameters valid is part of reading it: tests/flows/server/test_deployments.py.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.server.schemas.core import ConcurrencyLimitStrategy
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, is_valid_schema, validate

from flows.presets import list_presets, load_preset
from srpo_core.settings.pipeline import PipelineSettings

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = {one["name"]: one for one in CONFIG["deployments"]}
STAGES = {"ingest", "ingest-prompts", "train-sft", "reference", "train", "generate", "judge", "equal-compute", "audit", "publish"}
STAGES |= {"ask", "judge-on-device", "audit-on-device"}
TRAINING = {"demo", "tldr", "chat", "weekly-retrain", "train", "train-sft"}
each_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)


def load(name: str) -> Flow[..., Any]:
    path, function = DEPLOYMENTS[name]["entrypoint"].split(":")
    return load_flow_from_entrypoint(f"{ROOT / path}:{function}")


def test_there_is_a_deployment_for_every_preset_every_stage_and_the_weekly_retrain():
    assert set(DEPLOYMENTS) == {*list_presets(), *STAGES, "weekly-retrain"}
    assert len(DEPLOYMENTS) == len(CONFIG["deployments"])


@each_deployment
def test_an_entry_point_is_a_flow_whose_schema_the_server_accepts(name):
    schema = parameter_schema(load(name)).model_dump_for_openapi()
    is_valid_schema(schema)
    described = [field for field, value in schema["properties"].items() if value.get("description")]
    assert sorted(described) == sorted(schema["properties"])


@pytest.mark.parametrize(
    ("path", "value"),
    [("training.beta", -1), ("training.method", "ppo"), ("judge.kind", "oracle"), ("model.size", 3), ("methods", ["rlhf"])],
)
def test_the_form_refuses_what_the_settings_refuse(path, value):
    """Bounds, choices, the kind of judge and unknown names are in the schema, so that the server refuses them itself."""
    settings: dict[str, Any] = load_preset("demo")
    head, _, last = path.rpartition(".")
    (settings[head] if head else settings)[last] = value
    with pytest.raises(ValidationError):
        validate({"settings": settings}, parameter_schema(load("demo")).model_dump_for_openapi(), raise_on_error=True)


@pytest.mark.parametrize("preset", list_presets())
def test_the_deployment_of_a_preset_says_what_the_preset_says(preset):
    deployed = DEPLOYMENTS[preset]["parameters"]["settings"]
    assert deployed == load_preset(preset)
    assert PipelineSettings.model_validate(deployed).name == preset


@each_deployment
def test_whoever_trains_runs_one_at_a_time_and_says_what_happens_to_the_next(name):
    limit = DEPLOYMENTS[name].get("concurrency_limit")
    assert limit is not None or name not in TRAINING
    if limit is not None:
        assert limit["limit"] == 1
        assert limit["collision_strategy"] in {one.value for one in ConcurrencyLimitStrategy}


@each_deployment
def test_no_run_depends_on_its_worker_reading_its_output(name):
    assert DEPLOYMENTS[name]["work_pool"]["name"] == "local"
    assert DEPLOYMENTS[name]["work_pool"]["job_variables"]["stream_output"] is False


def test_the_weekly_schedule_has_a_time_zone_and_can_be_updated_in_place():
    (schedule,) = DEPLOYMENTS["weekly-retrain"]["schedules"]
    assert schedule["slug"]
    parsed = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert parsed.timezone == "Europe/Berlin"
    assert parsed.cron.split()[1] not in ("2", "3")  # hours that do not exist, or exist twice, when clocks change
