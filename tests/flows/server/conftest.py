"""One running `srpo serve` for the tests of this folder, and another where a test has ended it."""

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient

from flows.server.deployments import FILE, Deployment, read_deployments
from tests.flows.server.serve_process import Served, end, start_serving, wait_until_served


@pytest.fixture(scope="session")
def servings() -> Iterator[list[Served]]:
    """All that were started, newest last."""
    started: list[Served] = []
    yield started
    for one in started:
        end(one)


@pytest.fixture
def served(servings: list[Served], tmp_path_factory: pytest.TempPathFactory) -> Served:
    if not servings or servings[-1].process.poll() is not None:
        servings.append(start_serving(tmp_path_factory.mktemp("serve")))
        wait_until_served(servings[-1])
    return servings[-1]


@pytest.fixture
def client(served: Served) -> Iterator[SyncPrefectClient]:
    with served.client() as connection:
        yield connection


@pytest.fixture(scope="session")
def wanted() -> list[Deployment]:
    return read_deployments(FILE)
