"""What prefect.yaml says, checked before it is deployed, and deploying it.

Prefect ignores every key it does not know, at each level of the file, and stores a deployment whose parameters its own flow
refuses: such a mistake shows itself weeks later, in a run that never waits, never comes, or fails at once.
"""

import difflib
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from flows.server.processes import CHECKOUT
from srpo_core.errors import InputError, WorkFailed, first_line

FILE = CHECKOUT / "prefect.yaml"
POOL, DEVICE_QUEUE, OTHER_QUEUE = "local", "device", "default"
TAG = "srpo"  # on every deployment and so on every run of one; the automations look after runs that have it
ANCHORS = "definitions"  # a key Prefect does not know, on purpose: YAML anchors live there


class Deployment(NamedTuple):
    """One deployment of the file, with what its flow takes."""

    name: str
    flow_name: str
    entry: dict[str, Any]
    flow: Any
    schema: dict[str, Any]  # of its parameters, as the server stores it and makes the form of it

    @property
    def full_name(self) -> str:
        """As Prefect calls it, flow/deployment."""
        return f"{self.flow_name}/{self.name}"


def read_deployments(path: Path = FILE) -> list[Deployment]:
    """The deployments of a prefect.yaml, all of it checked. Imports the flows.

    Raises InputError naming the first mistake: a key nobody reads, an entry point that is none, parameters a flow refuses.
    """
    content = _read(path)
    _check_keys(content, path)
    found = [_load(entry, path) for entry in content["deployments"]]
    for one in found:
        _check_parameters(one, path)
    return found


def deploy(environment: Mapping[str, str], path: Path = FILE) -> None:
    """`prefect deploy --all`, in the folder of the file. Raises WorkFailed with what it said when it fails."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=path.parent, env=dict(environment), capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip(" ╭─╮│╰╯")]
        raise WorkFailed(f"expected to deploy {path}, found that prefect deploy says: {' '.join(lines[-3:])}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = "none" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise InputError(f"expected the deployments as YAML in {path}, found {reason}; mend the file") from error
    entries = content.get("deployments") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"expected a list of deployments under the key deployments in {path}; see the file of the repository")
    return dict(content)


def _check_keys(content: dict[str, Any], path: Path) -> None:
    from prefect.cli.deploy._models import PrefectYamlModel

    known = {field.alias or name for name, field in PrefectYamlModel.model_fields.items()}
    _require_known(content, {*known, ANCHORS}, str(path))
    names = [str(entry.get("name")) for entry in content["deployments"]]
    for index, entry in enumerate(content["deployments"]):
        where = f"deployment {entry.get('name') or f'number {index + 1}'} of {path}"
        if not entry.get("name") or names.count(names[index]) > 1:
            raise InputError(f"expected a name no other deployment has in {where}, found {entry.get('name')!r}; give it one")
        _check_entry(entry, where)


def _check_entry(entry: dict[str, Any], where: str) -> None:
    """Every key of one deployment, down to those of its schedules and triggers."""
    from prefect.cli.deploy._models import ConcurrencyLimitSpec, DeploymentConfig, WorkPoolConfig
    from prefect.workers.process import ProcessVariables

    _require_known(entry, DeploymentConfig.model_fields, where)
    pool = _mapping(entry, "work_pool", where)
    _require_known(pool, WorkPoolConfig.model_fields, f"work_pool of {where}")
    variables = _mapping(pool, "job_variables", f"work_pool of {where}")
    _require_known(variables, ProcessVariables.model_fields, f"work_pool.job_variables of {where}")
    if isinstance(entry.get("concurrency_limit"), dict):
        _check_limit(entry["concurrency_limit"], ConcurrencyLimitSpec.model_fields, f"concurrency_limit of {where}")
    for one, schedule in _each(entry, "schedule", where):
        _check_schedule(schedule, one)
    for one, trigger in _each(entry, "trigger", where):
        _check_trigger(trigger, one)


def _check_limit(limit: dict[str, Any], known: Collection[str], where: str) -> None:
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy

    _require_known(limit, known, where)
    strategies = [one.value for one in ConcurrencyLimitStrategy]
    if limit.get("collision_strategy") not in strategies:
        raise InputError(
            f"expected a collision_strategy ({', '.join(strategies)}) in {where}, found {limit.get('collision_strategy')!r}; "
            f"say what happens to a run beyond the limit"
        )


def build_schedule(entry: Mapping[str, Any]) -> Any:
    """A schedule of the file as Prefect makes it. Raises ValueError where Prefect refuses it."""
    from prefect.cli.deploy._models import RawScheduleConfig
    from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule

    RawScheduleConfig.model_validate(entry)
    return _schedule_config_to_deployment_schedule(dict(entry))["schedule"]


def _check_schedule(schedule: dict[str, Any], where: str) -> None:
    from prefect.cli.deploy._models import RawScheduleConfig

    _require_known(schedule, RawScheduleConfig.model_fields, where)
    try:
        build_schedule(schedule)
    except ValueError as error:
        raise InputError(f"expected a schedule Prefect accepts in {where}, found {_reason(error)}; mend it") from error


def _check_trigger(trigger: dict[str, Any], where: str) -> None:
    from prefect.cli.deploy._triggers import DeploymentTriggerAdapter

    try:
        parsed = DeploymentTriggerAdapter.validate_python(trigger)
    except ValueError as error:
        raise InputError(f"expected a trigger Prefect accepts in {where}, found {_reason(error)}; mend it") from error
    _require_known(trigger, type(parsed).model_fields, where)
    if "within" in trigger and not isinstance(trigger["within"], int | float):
        raise InputError(f"expected seconds as within in {where}, found {trigger['within']!r}; write a number")


def _reason(error: ValueError) -> str:
    """What Prefect says first, on one line, with the key it is about."""
    from pydantic import ValidationError

    first: Any = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
    return ": ".join([*map(str, first["loc"]), " ".join(first["msg"].split())])


def _require_known(given: Any, known: Collection[str], where: str) -> None:
    """Raises InputError for the first key that is not known, with the nearest that is."""
    if not isinstance(given, dict):
        raise InputError(f"expected keys with values as {where}, found {given!r}; indent them below it")
    for key in given:
        if key not in known:
            raise InputError(
                f"expected a key Prefect reads in {where}, found {key}, which it would ignore; {_nearest(key, known)}"
            )


def _nearest(name: object, known: Collection[str]) -> str:
    """What to write instead of a name that is not known: the nearest that is, or all."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"


def _mapping(entry: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = entry.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"expected keys with values as {key} of {where}, found {value!r}; indent them below it")
    return value


def _each(entry: dict[str, Any], kind: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schedules or triggers of a deployment, each with where it stands."""
    listed = entry.get(f"{kind}s") or []
    if not isinstance(listed, list):
        raise InputError(f"expected a list as {kind}s of {where}, found {listed!r}; begin each with a dash")
    for number, one in enumerate(listed, 1):
        yield f"{kind} {number} of {where}", one


def _load(entry: dict[str, Any], path: Path) -> Deployment:
    from prefect.flows import Flow, load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    where = f"deployment {entry['name']} of {path}"
    file, _, function = str(entry.get("entrypoint") or "").rpartition(":")
    if not (path.parent / file).is_file():
        raise InputError(
            f"expected an entrypoint file.py:flow in {where}, found {entry.get('entrypoint')!r}; no such file is there"
        )
    try:
        flow: Flow[..., Any] = load_flow_from_entrypoint(f"{path.parent / file}:{function}", use_placeholder_flow=False)
    except Exception as error:  # noqa: BLE001  (importing a file can fail in any way)
        found = first_line(error)
        raise InputError(f"expected a flow at the entrypoint {entry['entrypoint']} in {where}, found {found}") from error
    return Deployment(str(entry["name"]), flow.name, entry, flow, parameter_schema(flow).model_dump_for_openapi())


def _check_parameters(deployment: Deployment, path: Path) -> None:
    """The parameters as the form checks them; those of runs that nobody fills a form for must be complete as well."""
    where = f"deployment {deployment.name} of {path}"
    given = _mapping(deployment.entry, "parameters", where)
    _check_values(given, deployment, f"parameters of {where}", complete=False)
    for one, schedule in _each(deployment.entry, "schedule", where):
        merged = given | _mapping(schedule, "parameters", one)  # by top-level name, as the server does
        _check_values(merged, deployment, one, complete=True)
    for one, trigger in _each(deployment.entry, "trigger", where):
        merged = given | _mapping(trigger, "parameters", one)  # values hold templates until the event comes
        _check_names(merged, deployment.schema, one, complete=True)


def _check_values(values: dict[str, Any], deployment: Deployment, where: str, *, complete: bool) -> None:
    """As the server checks them, and, where none is missing, as the flow itself does, which knows rules across fields."""
    from prefect.exceptions import ParameterTypeError
    from prefect.utilities.schema_tools import ValidationError, validate

    from flows.under_prefect.forms import check_parameters

    _check_names(values, deployment.schema, where, complete=complete)
    try:
        validate(values, deployment.schema, raise_on_error=True, ignore_required=not complete)
        if set(deployment.schema.get("required", [])) <= set(values):
            check_parameters(deployment.flow, values)
    except (ValidationError, ParameterTypeError, InputError) as error:
        raise InputError(f"expected parameters the flow accepts in {where}, found: {' '.join(str(error).split())}") from error


def _check_names(values: dict[str, Any], schema: dict[str, Any], where: str, *, complete: bool) -> None:
    for name in values:
        if name not in schema["properties"]:
            advice = _nearest(name, schema["properties"])
            raise InputError(f"expected a parameter of the flow in {where}, found {name}; {advice}")
    missing = sorted(set(schema.get("required", [])) - set(values)) if complete else []
    if missing:
        raise InputError(
            f"expected a value for {missing[0]} in {where}, found none; nobody fills a form for these runs, so put it there"
        )
