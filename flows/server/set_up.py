"""What an installation needs on its server before a run can go well: pool, queues with limits, automations, deployments.

Doing it again changes only what has changed; settings a person has made there on purpose, a paused queue or another limit, stay.
"""

from collections.abc import Mapping
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkQueue
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from flows.server.automations import Windows, ensure_guards
from flows.server.deployments import DEVICE_QUEUE, FILE, OTHER_QUEUE, POOL, deploy
from flows.server.left_runs import tell_of_left_runs
from flows.server.pages import read_all
from srpo_core.errors import InputError

POOL_TYPE = "process"
QUEUES = {
    DEVICE_QUEUE: "Runs that need the device; the limit is how many devices there are.",
    OTHER_QUEUE: "Runs that need no device: reading data, judges behind an API, publishing.",
}


def open_client(environment: Mapping[str, str]) -> SyncPrefectClient:
    """A client of the server that the environment names."""
    in_profile = get_current_settings().api.auth_string  # credentials may be there alone
    auth = environment.get("PREFECT_API_AUTH_STRING") or (in_profile.get_secret_value() if in_profile else None)
    return SyncPrefectClient(environment["PREFECT_API_URL"], auth_string=auth)


def set_up(
    client: SyncPrefectClient,
    environment: Mapping[str, str],
    devices: int | None = None,
    windows: Windows = Windows(),  # noqa: B008  (immutable)
    path: Path = FILE,
) -> None:
    """Everything on the server; `devices` None = leave a limit that is there, 1 on a new queue.

    Raises InputError when the pool is of another type, WorkFailed when deploying fails.
    """
    ensure_pool(client)
    ensure_queues(client, devices)
    ensure_guards(client, windows)
    tell_of_left_runs(client)
    paused = [one.id for one in read_all(client.read_deployments) if one.paused]
    try:
        deploy(environment, path)
    finally:  # deploying resumes what a person has paused, also when it fails half-way
        for deployment in paused:
            client.pause_deployment(deployment)


def ensure_pool(client: SyncPrefectClient) -> None:
    """The pool whose workers start runs as processes of their machine. Raises InputError when one of another type is there."""
    try:
        found = client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        wanted = WorkPoolCreate(
            name=POOL,
            type=POOL_TYPE,
            base_job_template=template,
            description="Runs as processes of the machine their worker is on.",
        )
        client.create_work_pool(wanted)
        return
    if found.type != POOL_TYPE:
        raise InputError(
            f"expected a work pool {POOL} of type {POOL_TYPE} on the server, found type {found.type}; "
            f"give that one another name, or name another pool in prefect.yaml"
        )


def ensure_queues(client: SyncPrefectClient, devices: int | None = None) -> None:
    """The queues; that for the device lets as many runs go as there are devices."""
    for name, description in QUEUES.items():
        queue = find_queue(client, name)
        if queue is None:
            queue = client.create_work_queue(name=name, description=description, work_pool_name=POOL)
        if name == DEVICE_QUEUE and (queue.concurrency_limit is None or devices is not None):
            client.update_work_queue(queue.id, concurrency_limit=devices or 1)


def find_queue(client: SyncPrefectClient, name: str) -> WorkQueue | None:
    """A queue of the pool; None = there is none."""
    try:
        return client.read_work_queue_by_name(name, work_pool_name=POOL)
    except ObjectNotFound:
        return None
