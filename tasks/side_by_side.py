"""Work that mostly waits for a network, done side by side: each piece in a thread of its own, the first failure ends all.

Made for requests to a judge. Work on a device goes one after the other: two trainings on one device take longer than in turn, and
Linux ends a child when the *thread* that started it does.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from srpo_core.errors import WorkFailed

STOPPED = "stopped, because other work beside it ended first; what was answered is kept"
PATIENCE_SECONDS = 10.0  # Prefect kills a cancelled run after 30
Result = TypeVar("Result")


class Stop:
    """Tells pieces of work that they shall end."""

    def __init__(self) -> None:
        """Nobody shall end yet."""
        self._lock = threading.Lock()
        self._cancels: set[Callable[[], object]] = set()
        self.is_set = False  # True: nothing new shall begin

    def cancel(self) -> None:
        """End also what is under way."""
        with self._lock:
            self.is_set = True
            for cancel in self._cancels:
                cancel()

    def check(self) -> None:
        """Raise WorkFailed when the work shall end."""
        if self.is_set:
            raise WorkFailed(STOPPED)

    @contextmanager
    def calling(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Have `cancel` called, by another thread, when what is under way shall end before the body does."""
        with self._lock:
            self.check()
            self._cancels.add(cancel)
        try:
            yield
        finally:
            with self._lock:
                self._cancels.discard(cancel)


_current: contextvars.ContextVar[Stop | None] = contextvars.ContextVar("stop", default=None)


def side_by_side(pieces: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of all pieces, in their order. The first error is raised once the others have stopped.

    They begin nothing new then, and what is under way, which may be paid for, has PATIENCE_SECONDS to come back. An exception
    that reaches the caller from outside, such as Ctrl-C, cancels all at once. Each piece sees the context of the caller.
    """
    if len(pieces) <= 1:
        return [piece() for piece in pieces]
    stop = Stop()
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    ended = threading.Condition()

    def do(index: int) -> None:
        _current.set(stop)
        try:
            results[index] = pieces[index]()
        except BaseException as error:  # noqa: BLE001  (it is raised in the caller's thread)
            errors.append(error)
        with ended:
            ended.notify_all()

    threads = []
    for index in range(len(pieces)):
        context = contextvars.copy_context()
        threads.append(threading.Thread(target=context.run, args=(do, index), name=f"piece {index}", daemon=True))
    try:
        for thread in threads:
            thread.start()
        with ended:
            ended.wait_for(lambda: errors or len(results) == len(pieces))
        stop.is_set = True
        _join(threads)
    finally:
        stop.cancel()
        _join(threads)
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(pieces))]


def _join(threads: Sequence[threading.Thread]) -> None:
    """Wait for those that were started, together no longer than PATIENCE_SECONDS: one may sleep before its next attempt."""
    until = time.monotonic() + PATIENCE_SECONDS
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, until - time.monotonic()))


def raise_if_stopped() -> None:
    """Raise WorkFailed in a piece of work that shall end; elsewhere nothing."""
    stop = _current.get()
    if stop is not None:
        stop.check()


async def stoppable(work: Coroutine[object, object, Result]) -> Result:
    """`work`, cancelled when the piece that it belongs to shall end, which then raises WorkFailed."""
    stop, task, loop = _current.get(), asyncio.current_task(), asyncio.get_running_loop()
    if stop is None or task is None:
        return await work
    try:
        with stop.calling(lambda: loop.call_soon_threadsafe(task.cancel)):
            return await work
    except asyncio.CancelledError:
        stop.check()
        raise
    finally:
        work.close()
