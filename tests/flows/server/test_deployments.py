"""Mistakes in prefect.yaml that Prefect is silent about are found before deploying, with the key and the nearest right one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.server.deployments import FILE, read_deployments
from flows.server.processes import CHECKOUT
from srpo_core.errors import InputError

FLOW = '''
"""A flow with a bounded, a required and an optional parameter."""

from typing import Annotated

from prefect import flow
from pydantic import Field


@flow
def count(upto: Annotated[int, Field(le=10)], home: str = "") -> int:
    """Count.

    Args:
        upto: Where counting ends.
        home: A folder.
    """
    return upto
'''
LIMIT = {"limit": 1, "collision_strategy": "CANCEL_NEW"}
SCHEDULE = {"cron": "0 4 * * 1", "timezone": "UTC", "slug": "weekly"}
TRIGGER = {"type": "event", "name": "on-data", "expect": ["srpo.preferences.ingested"], "within": 0}
GOOD = {
    "name": "weekly",
    "entrypoint": "counting.py:count",
    "parameters": {"upto": 3},
    "schedules": [SCHEDULE],
    "triggers": [TRIGGER],
    "concurrency_limit": LIMIT,
    "work_pool": {"name": "local", "work_queue_name": "device", "job_variables": {"stream_output": False}},
}
# A change of the good deployment, and what the sentence about it names.
MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    ({"concurency_limit": LIMIT}, ["weekly", "concurency_limit", "did you mean concurrency_limit?"]),
    ({"concurrency_limit": {**LIMIT, "colision_strategy": "ENQUEUE"}}, ["colision_strategy", "did you mean collision_strategy?"]),
    ({"concurrency_limit": {"limit": 1}}, ["collision_strategy", "CANCEL_NEW", "None"]),
    ({"concurrency_limit": {**LIMIT, "collision_strategy": "WAIT"}}, ["ENQUEUE", "'WAIT'"]),
    ({"schedules": [{**SCHEDULE, "timezon": "UTC"}]}, ["schedule 1 of deployment weekly", "did you mean timezone?"]),
    ({"schedules": [{**SCHEDULE, "parameters": {"up_to": 3}}]}, ["schedule 1", "up_to", "did you mean upto?"]),
    ({"schedules": [{**SCHEDULE, "parameters": {"upto": 30}}]}, ["schedule 1", "upto", "30"]),
    ({"schedules": [{**SCHEDULE, "parameters": ["upto"]}]}, ["schedule 1", "parameters", "dictionary"]),
    ({"schedules": [{**SCHEDULE, "cron": "at four"}]}, ["schedule 1", "cron", "at four"]),
    ({"schedules": [{**SCHEDULE, "timezone": "Berlin"}]}, ["schedule 1", "timezone", "Berlin"]),
    ({"schedules": [{**SCHEDULE, "interval": 60}]}, ["schedule 1", "one"]),
    ({"schedules": 5}, ["schedules of deployment weekly", "found 5", "a list"]),
    ({"parameters": {}}, ["schedule 1", "a value for upto"]),
    ({"parameters": {}, "schedules": []}, ["trigger 1", "a value for upto"]),
    ({"parameters": {"upto": 11}, "schedules": []}, ["parameters of deployment weekly", "11"]),
    ({"parameters": {1: 3}}, ["parameters of deployment weekly", "found 1", "known are home, upto"]),
    ({"triggers": [{**TRIGGER, "parameters": ["upto"]}]}, ["trigger 1", "parameters"]),
    ({"parameters": {"upto": 3, "hom": "x"}}, ["hom", "did you mean home?"]),
    ({"triggers": [{**TRIGGER, "expects": ["x"]}]}, ["trigger 1 of deployment weekly", "did you mean expect?"]),
    ({"triggers": [{**TRIGGER, "posture": "Sideways"}]}, ["trigger 1", "posture"]),
    ({"triggers": [{**TRIGGER, "within": "PT60S"}]}, ["seconds as within in trigger 1 of deployment weekly", "'PT60S'"]),
    ({"work_pool": {**GOOD["work_pool"], "work_queue": "device"}}, ["work_pool of deployment", "did you mean work_queue_name?"]),
    (
        {"work_pool": {"name": "local", "job_variables": {"stream_ouput": False}}},
        ["job_variables", "did you mean stream_output?"],
    ),
    ({"work_pool": ["local"]}, ["work_pool of deployment weekly", "['local']"]),
    ({"entrypoint": "counting.py:kount"}, ["entrypoint", "kount"]),
    ({"entrypoint": "missing.py:count"}, ["entrypoint", "'missing.py:count'", "no such file"]),
    ({"name": ""}, ["a name", "number 1"]),
]


def write(folder: Path, content: Any) -> Path:
    """A prefect.yaml beside the flow it names."""
    (folder / "counting.py").write_text(FLOW, encoding="utf-8")
    path = folder / "prefect.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_deployments(path)
    return str(caught.value)


def test_the_file_of_this_repository_has_no_mistake():
    names = [one.name for one in read_deployments(FILE)]
    assert len(set(names)) == len(names) >= 12


def test_a_deployment_carries_its_flows_name_and_the_form_of_its_parameters(tmp_path):
    (one,) = read_deployments(write(tmp_path, {"name": "x", "deployments": [GOOD]}))
    assert one.full_name == "count/weekly"
    assert one.schema["required"] == ["upto"]
    assert one.schema["properties"]["upto"]["maximum"] == 10


@pytest.mark.parametrize(("change", "named"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_one_sentence_that_names_it(tmp_path, change, named):
    sentence = refusal(write(tmp_path, {"deployments": [{**GOOD, **change}]}))
    assert [word for word in [*named, "prefect.yaml"] if word not in sentence] == [], sentence
    assert "\n" not in sentence


def test_keys_at_the_top_are_looked_at_and_anchors_are_allowed(tmp_path):
    read_deployments(write(tmp_path, {"definitions": {"anything": 1}, "prefect-version": "3.8.8", "deployments": [GOOD]}))
    assert "did you mean deployments?" in refusal(write(tmp_path, {"deployment": [], "deployments": [GOOD]}))


@pytest.mark.parametrize("content", ["deployments: [", "just text", "deployments: []", "deployments: [text]"])
def test_what_is_no_list_of_deployments_is_refused(tmp_path, content):
    assert "prefect.yaml" in refusal(write(tmp_path, content))


def test_two_deployments_of_one_name_are_refused(tmp_path):
    assert "no other deployment has" in refusal(write(tmp_path, {"deployments": [GOOD, GOOD]}))


def test_a_missing_file_is_refused(tmp_path):
    assert "found none" in refusal(tmp_path / "prefect.yaml")


def test_a_flow_that_does_not_load_is_named_with_its_reason(tmp_path):
    path = write(tmp_path, {"deployments": [GOOD]})
    (tmp_path / "counting.py").write_text(f"import no_such_module_anywhere\n{FLOW}", encoding="utf-8")
    assert "no_such_module_anywhere" in refusal(path)


def test_the_misspelt_key_is_found_in_a_copy_of_the_real_file(tmp_path):
    (tmp_path / "flows").symlink_to(CHECKOUT / "flows")
    shutil.copy(FILE, tmp_path / "prefect.yaml")
    path = tmp_path / "prefect.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("timezone:", "time_zone:", 1), encoding="utf-8")
    assert "did you mean timezone?" in refusal(path)
