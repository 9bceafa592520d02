"""The Prefect server that the tests of flows share."""

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """A server of its own for this test run; harnesses must not be nested, so there is one."""
    with prefect_test_harness(server_startup_timeout=120):
        yield
