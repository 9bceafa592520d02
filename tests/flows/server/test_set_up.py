"""What a server gives in pages is read whole, what a person paused stays so, and a sign of life is found among many others."""

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Running

from flows.server import pages, set_up
from flows.server.deployments import DEVICE_QUEUE, Deployment
from flows.server.run_checks import _heard, open_runs
from flows.server.serving import Installation, _set_up
from srpo_core.errors import WorkFailed
from tests.flows.server.live_server import beat, run_in, stored
from tests.flows.server.serve_process import Served
from tests.waiting import wait_for


def test_all_deployments_are_read_however_many_a_page_has(
    client: SyncPrefectClient, wanted: list[Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PER_PAGE", 3)
    names = [one.name for one in pages.read_all(client.read_deployments)]
    assert len(names) == len(set(names)) and {one.entry["name"] for one in wanted} <= set(names)


def test_runs_at_work_are_found_behind_more_scheduled_ones_than_a_page_has(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PER_PAGE", 1)
    with run_in(client, Running()) as one, run_in(client, Running()) as other:
        found = open_runs(client, {"publish", "retrain"})
        assert {one.id, other.id} <= {run.id for run in found}
        assert "Scheduled" not in {run.state.name for run in found if run.state is not None}


def test_what_a_person_paused_stays_paused_when_deploying_fails_half_way(
    served: Served, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = stored(client, "publish/publish").id
    client.pause_deployment(paused)

    def deploy_half(*_: object) -> None:
        client.resume_deployment(paused)
        raise WorkFailed("the server went away")

    monkeypatch.setattr(set_up, "deploy", deploy_half)
    try:
        with pytest.raises(WorkFailed):
            set_up.set_up(client, served.environment)
        assert stored(client, "publish/publish").paused
    finally:
        client.resume_deployment(paused)


def test_a_limit_that_is_there_says_how_many_devices_there_are(
    served: Served, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting again without --devices after --devices 2: two runs at a time have a device each."""
    monkeypatch.setattr(set_up, "deploy", lambda *_: None)
    queue = set_up.find_queue(client, DEVICE_QUEUE)
    assert queue is not None
    client.update_work_queue(queue.id, concurrency_limit=2)
    try:
        assert _set_up(Installation(served.home, served.environment)) == 2
    finally:
        client.update_work_queue(queue.id, concurrency_limit=1)


def test_a_sign_of_life_is_found_behind_more_of_another_run_than_a_page_has(client: SyncPrefectClient) -> None:
    with run_in(client, Running()) as quiet, run_in(client, Running()) as busy:
        beat(client, quiet)
        for _ in range(60):
            beat(client, busy)
        everyone = {f"prefect.flow-run.{run.id}" for run in (quiet, busy)}
        wait_for(lambda: _heard(client, [quiet, busy], 60.0) == everyone, 15, "the heartbeats")
