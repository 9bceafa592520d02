"""Fixtures that more than one folder of tests uses."""

import os
from pathlib import Path

import pytest

TINY_RUN = [
    *("run", "--preset", "demo"),
    *("--set", "newsroom.num_demonstrations=400"),
    *("--set", "newsroom.num_pairs=120"),
    *("--set", "newsroom.num_prompts=10"),
    *("--set", "generation.num_revisions=1"),
    *("--set", "diagnostics=null"),
    *("--set", "methods=[srpo]"),
    *("--set", "resources.num_processes=1"),
]


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that `srpo run` filled end to end, with a demo so small that its policies write nonsense. Do not change it.

    Processes that share a test run share the home: whoever comes second waits for the first one's leases and finds all complete.
    """
    from flows.cli import main

    base = tmp_path_factory.getbasetemp()
    home = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "tiny_home"
    for name in ("PREFECT_API_URL", "SRPO_HOME"):
        os.environ.pop(name, None)
    assert main([*TINY_RUN, "--home", str(home)]) == 0
    return home


@pytest.fixture(scope="session")
def operated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published home of `tests/operated_home.py`. Do not change it."""
    from tasks.publishing import publish_results
    from tests.operated_home import make_operated_home

    home = tmp_path_factory.mktemp("operated")
    make_operated_home(home)
    publish_results(home)
    return home
