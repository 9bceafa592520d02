"""Progress says how far, how fast, how long still and how it goes; it never holds up the work it tells of."""

import io
import logging
import math
import threading
import time
from typing import Any

import pytest

from tasks import progress, progress_artifacts
from tasks.progress import LOG_PERIOD, ProgressDisplay
from tasks.progress_artifacts import ProgressArtifacts, artifact_key


class Clock:
    """`time.monotonic` that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, str]]:
    """What would have been sent to a server, inside what seems to be a Prefect run."""
    found: list[tuple[str, float, str]] = []
    monkeypatch.setattr(progress, "inside_prefect_run", lambda: True)
    monkeypatch.setattr(ProgressArtifacts, "_send", lambda self, *update: found.append(update))
    return found


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_training_step_is_told_with_metrics_pairs_a_second_and_time_left(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """10 steps of 32 pairs in 8 s are 40 pairs/s; the 365 left take 292 s = 4:52 min."""
    values = {"loss": 0.5123, "generative_margin": 0.21, "grad_norm": 3.0, "pairs_per_step": 32}
    with caplog.at_level(logging.INFO, "srpo"), ProgressDisplay("train") as display:
        display.update("srpo", 0, 375, "steps")
        clock.now += 8
        display.update("srpo", 10, 375, "steps", values)
    assert messages(caplog) == [
        "train srpo step 0/375",
        "train srpo step 10/375: 4:52 min left, 40 pairs/s, loss 0.512, margin 0.21",
    ]


def test_the_rate_of_work_that_goes_on_is_that_of_this_attempt_alone(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """300 steps were done before; 25 in 10 s are 2.5 steps/s, and the 50 left take 20 s."""
    with caplog.at_level(logging.INFO, "srpo"), ProgressDisplay("train") as display:
        display.update("srpo", 300, 375, "steps")
        clock.now += 10
        display.update("srpo", 325, 375, "steps")
    assert messages(caplog)[-1] == "train srpo step 325/375: 20 s left, 2.5 steps/s"


@pytest.mark.parametrize(("seconds", "told"), [(59, "59 s"), (61, "1:01 min"), (3725, "1:02 h"), (90_000, "25:00 h")])
def test_time_left_is_told_in_seconds_minutes_or_hours(seconds: float, told: str) -> None:
    assert progress._duration(seconds) == told


def test_lines_are_a_period_apart_and_the_last_always_comes(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "srpo"), ProgressDisplay("reference") as display:
        for done in range(1, 13):
            display.update("reference", done, 12, "pairs")
            clock.now += 1
    told = [message.split(" pairs")[0] for message in messages(caplog)]
    assert told == ["reference 1/12", "reference 6/12", "reference 11/12", "reference 12/12"]
    assert LOG_PERIOD == 5


def test_without_a_known_total_there_is_a_rate_and_no_time_left(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "srpo"), ProgressDisplay("ingest") as display:
        display.update("hub", 0, 0, "rows")
        clock.now += 10
        display.update("hub", 25_000, 0, "rows", {"pairs": 24_990, "rejected_rows": 10})
    assert messages(caplog)[-1] == "ingest hub 25,000 rows: 2.5e+03 rows/s, pairs 24,990, rejected rows 10"


def test_numbers_that_are_none_are_not_told(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "srpo"), ProgressDisplay("train") as display:
        display.update("dpo", 3, 3, "steps", {"loss": math.nan, "generative_accuracy": 0.5})
    assert messages(caplog) == ["train dpo step 3/3: accuracy 0.5"]


def test_a_zero_has_no_sign(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "srpo"), ProgressDisplay("train") as display:
        display.update("dpo", 3, 3, "steps", {"loss": 0.0, "generative_margin": -0.0})
    assert messages(caplog) == ["train dpo step 3/3: loss 0, margin 0"]


def test_short_work_shows_nothing_where_patience_was_asked_for(
    clock: Clock, caplog: pytest.LogCaptureFixture, sent: list[Any]
) -> None:
    with caplog.at_level(logging.INFO, "srpo"), ProgressDisplay("judge", patience=5) as display:
        clock.now += 4
        display.update("srpo on id", 10, 10, "games")
    assert messages(caplog) == [] and sent == []


# --- artifacts of a Prefect run ------------------------------------------------------------------------------------------


def test_an_artifact_says_what_the_log_line_says(clock: Clock, caplog: pytest.LogCaptureFixture, sent: list[Any]) -> None:
    with caplog.at_level(logging.INFO, "srpo"), ProgressDisplay("judge") as display:
        display.update("srpo on mix", 0, 400, "games")
        clock.now += 10
        display.update("srpo on mix", 100, 400, "games")
    assert sent[-1] == ("judge-srpo-on-mix", 25.0, "100/400 games: 30 s left, 10 games/s")
    assert messages(caplog)[-1] == "judge srpo on mix 100/400 games: 30 s left, 10 games/s"


def test_an_artifact_ends_with_the_last_state_also_between_two_periods(clock: Clock, sent: list[Any]) -> None:
    with ProgressDisplay("generate") as display:
        display.update("srpo on mix", 1, 4, "completions")
        clock.now += 1
        display.update("srpo on mix", 3, 4, "completions")
    assert sent[-1][:2] == ("generate-srpo-on-mix", 75.0)


def test_work_that_fails_says_where_it_stopped(clock: Clock, sent: list[Any]) -> None:
    with pytest.raises(ZeroDivisionError), ProgressDisplay("train") as display:
        display.update("srpo", 7, 375, "steps")
        raise ZeroDivisionError
    assert sent[-1][2] == "stopped at step 7/375"


def test_a_job_that_was_done_when_another_failed_did_not_stop(clock: Clock, sent: list[Any]) -> None:
    with pytest.raises(ZeroDivisionError), ProgressDisplay("train") as display:
        display.update("srpo", 375, 375, "steps")
        display.update("dpo", 7, 375, "steps")
        raise ZeroDivisionError
    assert [text for key, _, text in sent if key == "train-srpo"][-1] == "step 375/375"


def test_a_server_that_hangs_does_not_hold_up_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(progress, "inside_prefect_run", lambda: True)
    monkeypatch.setattr(ProgressArtifacts, "_send", lambda self, *update: released.wait(30))
    monkeypatch.setattr(progress_artifacts, "CLOSING_SECONDS", 0.2)
    began = time.monotonic()
    with ProgressDisplay("train") as display:
        for done in range(1, 101):
            display.update("srpo", done, 100, "steps")
    assert time.monotonic() - began < 15  # the server hangs for 30
    released.set()


def test_a_server_that_refuses_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def refuse(self: ProgressArtifacts, key: str, *_: Any) -> None:
        calls.append(key)
        raise ConnectionError("no server")

    monkeypatch.setattr(ProgressArtifacts, "_send", refuse)
    artifacts = ProgressArtifacts()
    artifacts.show("a", 1.0, "")
    artifacts.show("b", 1.0, "")
    artifacts.close()
    assert calls == ["a", "b"]


def test_keys_are_readable_and_hold_only_what_prefect_allows() -> None:
    assert artifact_key("train", "srpo") == "train-srpo"
    assert artifact_key("reference", "reference") == "reference"
    assert artifact_key("judge", "SRPO β 0.1 on X/Sum_val") == "judge-srpo-0-1-on-x-sum-val"
    assert artifact_key("", "β") == "progress"


@pytest.mark.parametrize(
    ("percent", "shown"), [(100 / 6240 * 100, 1.6), (99.97, 99.9), (100.0, 100.0), (130.0, 100.0), (-1.0, 0.0), (0.04, 0.0)]
)
def test_a_percentage_has_one_decimal_and_is_100_only_when_all_is_done(
    sent: list[tuple[str, float, str]], percent: float, shown: float
) -> None:
    """The UI prints every digit of what it is sent, such as 1.6025641025641026."""
    artifacts = ProgressArtifacts()
    artifacts.show("a", percent, "")
    artifacts.close()
    assert [value for _, value, _ in sent] == [shown]


# --- in a terminal -------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_two_stages_side_by_side_share_a_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It has room for the bars of one; the other writes lines, and the next has bars again."""
    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    with caplog.at_level(logging.INFO, "srpo"), ProgressDisplay("judge") as first, ProgressDisplay("judge") as second:
        first.update("srpo on id", 1, 2, "games")
        second.update("srpo on mix", 1, 2, "games")
        assert first.bars is not None and second.bars is None
    assert messages(caplog) == ["judge srpo on mix 1/2 games"]
    with ProgressDisplay("judge") as third:
        assert third.bars is not None


def test_the_log_of_a_prefect_run_has_the_lines_that_a_terminal_shows_as_bars(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sent: list[Any]
) -> None:
    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    with caplog.at_level(logging.INFO, "srpo"), ProgressDisplay("train") as display:
        display.update("srpo", 1, 2, "steps")
        assert display.bars is not None
    assert messages(caplog) == ["train srpo step 1/2"]
