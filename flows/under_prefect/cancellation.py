"""Cancelling that does not need a living worker: a flow run looks at its own state and ends itself when a person cancelled it.

Prefect has the worker send SIGTERM to a cancelled run. A worker that is dead sends nothing, and one that is started later does
not know the run: it would stay `Cancelling` and train on. So every flow is watched by a thread, which sends its own process the
signal the worker would have sent. Prefect's handler turns it into an exception in the main thread, whatever that waits for:
training, requests to a judge, or a lease.
"""

import contextvars
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

PERIOD = 3.0  # seconds between two looks
TIMEOUT_SECONDS = 5.0  # of one look
CANCELLED = "cancelled; what is complete stays and training left a checkpoint: run it again, or Retry, to go on from there"
logger = logging.getLogger("srpo")


@contextmanager
def ends_when_cancelled() -> Iterator[None]:
    """Watch the state of this flow run while the body is under way; an absent server stops nothing."""
    run_id = runtime.flow_run.id
    if run_id is None or threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    watch = _Watch(UUID(str(run_id)))
    context = contextvars.copy_context()  # Prefect's settings live there
    threading.Thread(target=context.run, args=(watch.look,), name="cancellation", daemon=True).start()
    try:
        yield
    finally:
        watch.stop()


def is_cancelled() -> bool:
    """Whether a person cancelled this flow run, as far as the server can be asked."""
    run_id = runtime.flow_run.id
    state = None if run_id is None else _read_state(UUID(str(run_id)))
    return state is not None and (state.is_cancelling() or state.is_cancelled())


class _Watch:
    """Looks until the flow's body is over, or until it was ended from outside."""

    def __init__(self, run_id: UUID) -> None:
        self._run_id = run_id
        self._over = threading.Event()
        self._lock = threading.Lock()  # no signal once the body is over

    def stop(self) -> None:
        """The body is over."""
        with self._lock:
            self._over.set()

    def look(self) -> None:
        """The thread's work."""
        while not self._over.wait(PERIOD):
            state = _read_state(self._run_id)
            if state is not None and (state.is_cancelling() or state.is_final()) and self._end(state):
                return

    def _end(self, state: State[Any]) -> bool:
        """Whether the process was sent SIGTERM: only where Prefect or the command line turns it into an exception."""
        with self._lock:
            if self._over.is_set() or not callable(signal.getsignal(signal.SIGTERM)):
                return False
            logger.warning("the run was ended from outside (%s): it stops now", state.name)
            os.kill(os.getpid(), signal.SIGTERM)
            return True


def _read_state(run_id: UUID) -> State[Any] | None:
    try:
        with get_client(httpx_settings={"timeout": TIMEOUT_SECONDS}, sync_client=True) as client:
            return client.read_flow_run(run_id).state
    except Exception as error:  # noqa: BLE001
        logger.debug("run state not read: %s", error)
        return None
