"""`srpo doctor` on a live installation: every failure that Prefect does not tell about has a check here."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.server.automations import Windows
from flows.server.check_line import Check
from flows.server.deployment_checks import check_deployments
from flows.server.deployments import FILE, read_deployments
from flows.server.key_checks import check_keys
from flows.server.run_checks import check_runs
from flows.server.set_up import open_client
from srpo_core.errors import InputError


def check_installation(environment: Mapping[str, str], path: Path = FILE, windows: Windows = Windows()) -> Iterator[Check]:  # noqa: B008
    """The checks of the server that the environment names, against the prefect.yaml at `path`; takes some seconds."""
    try:
        wanted = read_deployments(path)
        yield Check("prefect.yaml", "ok", f"{len(wanted)} deployments, every key and parameter known")
    except InputError as error:
        yield Check("prefect.yaml", "broken", str(error), "mend the file; the checks of the server need it")
        return
    with open_client(environment) as client:
        yield from check_deployments(client, wanted, path.parent)
        yield from check_runs(client, wanted, windows)
        yield check_keys(client, wanted, environment)
