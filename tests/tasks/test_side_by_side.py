"""Work side by side: results in order, the first error ends the others, and a signal in the caller ends all."""

import asyncio
import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

import tasks.side_by_side as side_by_side_module
from srpo_core.errors import InputError, WorkFailed
from tasks.side_by_side import raise_if_stopped, side_by_side, stoppable


def waiting(seconds: float, result: str = "") -> Callable[[], str]:
    """Work in an event loop of its own, as requests to a judge are."""

    async def wait() -> str:
        await asyncio.sleep(seconds)
        return result

    return lambda: asyncio.run(stoppable(wait()))


def test_pieces_are_under_way_at_once_and_their_results_come_in_the_order_of_the_pieces() -> None:
    meeting = threading.Barrier(3)  # that none passes alone

    def piece(seconds: float, result: str) -> Callable[[], str]:
        def work() -> str:
            meeting.wait(30)
            return waiting(seconds, result)()

        return work

    assert side_by_side([piece(0.3, "slow"), piece(0.0, "quick"), piece(0.1, "middle")]) == ["slow", "quick", "middle"]


def test_the_first_error_is_raised_and_ends_what_does_not_come_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side_module, "PATIENCE_SECONDS", 0.3)
    ended: list[BaseException] = []

    def long() -> str:
        try:
            return waiting(60)()
        except BaseException as error:
            ended.append(error)
            raise

    def broken() -> str:
        time.sleep(0.1)
        raise InputError("expected a preset, found none")

    began = time.monotonic()
    with pytest.raises(InputError, match="expected a preset"):
        side_by_side([long, broken, long])
    assert time.monotonic() - began < 20
    assert [type(error) for error in ended] == [WorkFailed, WorkFailed]
    assert "stopped, because other work beside it ended first" in str(ended[0])


def test_what_is_under_way_when_another_fails_comes_back() -> None:
    """A request in flight may be paid for."""
    under_way, failed = threading.Event(), threading.Event()
    came_back: list[str] = []

    async def request() -> str:
        under_way.set()
        while not failed.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        return "answer"

    def paid() -> str:
        came_back.append(asyncio.run(stoppable(request())))
        return ""

    def broken() -> str:
        under_way.wait()
        failed.set()
        raise WorkFailed("the judge is down")

    with pytest.raises(WorkFailed, match="the judge is down"):
        side_by_side([paid, broken])
    assert came_back == ["answer"]


def test_what_has_not_begun_when_the_work_ends_does_not_begin() -> None:
    begun: list[str] = []
    failed = threading.Event()

    def chain() -> str:
        failed.wait()
        until = time.monotonic() + 5
        while time.monotonic() < until:  # the caller has to hear of the failure first
            raise_if_stopped()
            time.sleep(0.01)
        begun.append("second")
        return ""

    def broken() -> str:
        failed.set()
        raise WorkFailed("the judge is down")

    with pytest.raises(WorkFailed, match="the judge is down"):
        side_by_side([chain, broken])
    assert not begun


def test_a_signal_that_reaches_the_caller_ends_all_pieces() -> None:
    class Ended(BaseException):
        """What the handler of a signal raises."""

    def end(*_: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGTERM, end)
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        with pytest.raises(Ended):
            side_by_side([waiting(60), waiting(60)])
        assert time.monotonic() - began < 20
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("piece")]


def test_pieces_see_the_context_of_the_caller() -> None:
    """Prefect's run context is one: without it a task in a thread would not know its flow run."""
    place: contextvars.ContextVar[str] = contextvars.ContextVar("place")
    place.set("here")
    assert side_by_side([place.get, place.get]) == ["here", "here"]


def test_outside_of_side_by_side_nothing_is_stopped() -> None:
    raise_if_stopped()
    assert waiting(0, "done")() == "done"
    assert side_by_side([waiting(0, "alone")]) == ["alone"]
