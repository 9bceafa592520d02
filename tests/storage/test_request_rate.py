"""One rate for all processes on a home: places are as far apart as it says, whoever takes them."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from storage.request_rate import FOLDER, SharedRate


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_requests_are_spaced_evenly_from_the_first_on(tmp_path: Path) -> None:
    """60 a minute: one a second, and no burst after a pause."""
    clock = Clock()
    rate = SharedRate(tmp_path, "r", requests_per_minute=60, clock=clock)
    assert [rate.reserve(5) for _ in range(3)] == [0, 1, 2]
    clock.now += 30
    assert [rate.reserve(5) for _ in range(3)] == [0, 1, 2]


def test_tokens_are_spaced_and_an_estimate_is_corrected(tmp_path: Path) -> None:
    """600 tokens a minute are ten a second: 20 tokens take two seconds; 10 more than estimated one more, 5 fewer half a one."""
    rate = SharedRate(tmp_path, "r", tokens_per_minute=600, clock=Clock())
    assert rate.reserve(20) == 0 and rate.reserve(10) == 2
    rate.settle(10)
    assert rate.reserve(1) == 4
    rate.settle(-5)
    assert rate.reserve(1) == pytest.approx(3.6)


def test_tokens_not_used_are_no_credit_for_later(tmp_path: Path) -> None:
    clock = Clock()
    rate = SharedRate(tmp_path, "r", tokens_per_minute=60, clock=clock)
    rate.reserve(10)
    clock.now += 100
    rate.settle(-10)
    assert rate.reserve(1) == 0 and rate.reserve(1) == 1


def test_the_slower_of_both_limits_rules(tmp_path: Path) -> None:
    rate = SharedRate(tmp_path, "r", requests_per_minute=60, tokens_per_minute=60, clock=Clock())
    assert [rate.reserve(3) for _ in range(3)] == [0, 3, 6]


def test_models_do_not_wait_for_each_other(tmp_path: Path) -> None:
    clock = Clock()
    rates = [SharedRate(tmp_path, name, requests_per_minute=1, clock=clock) for name in ("a", "b")]
    assert [rate.reserve(1) for rate in rates] == [0, 0] and [rate.reserve(1) for rate in rates] == [60, 60]


@pytest.mark.parametrize("content", [b"", b"{", b'{"request": "x", "token": 1}', b"[]", b"\x00" * 256])
def test_a_damaged_state_is_no_place_taken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "r.json").write_bytes(content)
    assert SharedRate(tmp_path, "r", requests_per_minute=60, clock=Clock()).reserve(1) == 0


def test_a_clock_that_was_set_back_does_not_stop_everything(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "r.json").write_text(json.dumps({"request": 1000.0 + 3600, "token": 0}))
    assert SharedRate(tmp_path, "r", requests_per_minute=60, clock=Clock()).reserve(1) == 0


def _take(home: Path, count: int, places: "multiprocessing.Queue[float]") -> None:
    rate = SharedRate(home, "r", requests_per_minute=1200)
    for _ in range(count):
        time.sleep(rate.reserve(1))
        places.put(time.time())


def test_two_processes_together_keep_to_one_rate(tmp_path: Path) -> None:
    """1,200 a minute: 24 requests of two processes take 23 times 50 ms, and no two are closer than that."""
    context = multiprocessing.get_context("fork")
    places: multiprocessing.Queue[float] = context.Queue()
    takers = [context.Process(target=_take, args=(tmp_path, 12, places)) for _ in range(2)]
    for process in takers:
        process.start()
    times = sorted(places.get(timeout=30) for _ in range(24))
    for process in takers:
        process.join()
    assert times[-1] - times[0] > 23 * 0.05 - 0.03
    assert times[-1] - times[0] < 4


def _reserve(home: Path, count: int) -> None:
    rate = SharedRate(home, "r", requests_per_minute=6000, tokens_per_minute=6000, clock=Clock())
    for _ in range(count):
        rate.reserve(1)


def test_no_place_is_given_twice_however_many_ask_at_once(tmp_path: Path) -> None:
    """Three processes take 250 places of 10 ms each at one and the same second: the next one is 7.5 seconds away."""
    context = multiprocessing.get_context("fork")
    takers = [context.Process(target=_reserve, args=(tmp_path, 250)) for _ in range(3)]
    for process in takers:
        process.start()
    for process in takers:
        process.join()
    places = json.loads((tmp_path / FOLDER / "r.json").read_text())
    assert places == pytest.approx({"request": 1007.5, "token": 1007.5})
