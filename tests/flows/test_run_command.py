"""`srpo run` against a Prefect server: a person cancels it there."""

import threading
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL

from flows.cli import main
from flows.under_prefect import cancellation
from storage.runs import read_runs
from tests.conftest import TINY_RUN

ROOT = Path(__file__).resolve().parents[2]


def cancel_when_it_runs(home: Path, api_url: str) -> None:
    """As the UI does."""
    until = time.monotonic() + 60
    while not (home / "runs").is_dir() or not read_runs(home):
        assert time.monotonic() < until
        time.sleep(0.1)
    (record,) = read_runs(home)
    with SyncPrefectClient(api_url) as client:
        client.set_flow_run_state(record["prefect_run"], State(type=StateType.CANCELLING), force=True)


def test_a_run_cancelled_in_the_ui_ends_with_one_sentence_and_status_1(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api_url = str(PREFECT_API_URL.value())
    monkeypatch.setenv("PREFECT_API_URL", api_url)
    monkeypatch.setattr(cancellation, "PERIOD", 0.2)
    threading.Thread(target=cancel_when_it_runs, args=(tmp_path, api_url), daemon=True).start()
    assert main([*TINY_RUN, "--home", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"srpo: {cancellation.CANCELLED}"
    (record,) = read_runs(tmp_path)
    assert record["state"] == "cancelled" and cancellation.CANCELLED in record["failure"]
