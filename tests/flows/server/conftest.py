"""One running `srpo serve` for the tests of this folder; the last of them, in test_serving.py, ends it."""

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient

from flows.server.deployments import FILE, Deployment, read_deployments
from tests.flows.server.serve_process import Served, end, start_serving, wait_until_served


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = start_serving(tmp_path_factory.mktemp("serve"))
    try:
        wait_until_served(running)
        yield running
    finally:
        end(running)


@pytest.fixture
def client(served: Served) -> Iterator[SyncPrefectClient]:
    with served.client() as connection:
        yield connection


@pytest.fixture(scope="session")
def wanted() -> list[Deployment]:
    return read_deployments(FILE)
