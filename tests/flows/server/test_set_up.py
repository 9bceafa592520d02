"""What a server gives in pages is read whole, and a run's sign of life is found among those of many others."""

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Running

from flows.server import set_up
from flows.server.deployments import Deployment
from flows.server.run_checks import _heard
from tests.flows.server.live_server import beat, run_in
from tests.flows.server.serve_process import wait_for


def test_all_deployments_are_read_however_many_a_page_has(
    client: SyncPrefectClient, wanted: list[Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up, "DEPLOYMENTS_PER_PAGE", 3)
    names = [one.name for one in set_up._all_deployments(client)]
    assert len(names) == len(set(names)) and {one.entry["name"] for one in wanted} <= set(names)


def test_a_sign_of_life_is_found_behind_more_of_another_run_than_a_page_has(client: SyncPrefectClient) -> None:
    with run_in(client, Running()) as quiet, run_in(client, Running()) as busy:
        beat(client, quiet)
        for _ in range(60):
            beat(client, busy)
        everyone = {f"prefect.flow-run.{run.id}" for run in (quiet, busy)}
        wait_for(lambda: _heard(client, [quiet, busy], 60.0) == everyone, 15, "the heartbeats")
