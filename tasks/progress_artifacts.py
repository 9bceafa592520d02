"""Progress artifacts of a Prefect run, sent by a thread of their own: a server that is slow or away holds no work up.

In the UI the ring of a running task in the run's graph moves by itself; pages that name the artifact show its description as of
when they were opened. Each update is an event on the server, so who calls this keeps updates apart.
"""

import logging
import re
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

logger = logging.getLogger("srpo")
CLOSING_SECONDS = 5.0  # how long the end of a stage waits for its last updates to arrive


class ProgressArtifacts:
    """One artifact a key, created at its first update; only the newest state of each waits to be sent."""

    def __init__(self) -> None:
        """Nothing is started before the first update."""
        self._waiting: dict[str, tuple[float, str]] = {}
        self._ids: dict[str, Any] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def show(self, key: str, percent: float, description: str) -> None:
        """Let the artifact `key` say `percent` (0-100) and `description`; returns at once."""
        with self._changed:
            self._waiting[key] = (_shown(percent), description)
            self._changed.notify()
            if self._thread is None:
                run = copy_context().run  # with the flow and task run that the artifacts belong to
                self._thread = threading.Thread(target=run, args=(self._send_all,), daemon=True, name="progress artifacts")
                self._thread.start()

    def close(self) -> None:
        """Wait until all is sent, though no longer than CLOSING_SECONDS."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSING_SECONDS)

    def _send_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                key = next(iter(self._waiting))
                percent, description = self._waiting.pop(key)
            try:
                self._send(key, percent, description)
            except Exception as error:  # noqa: BLE001  (whatever is wrong with the server, the work goes on)
                logger.debug("progress artifact %s not updated: %s", key, error)

    def _send(self, key: str, percent: float, description: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if key in self._ids:
            update_progress_artifact(self._ids[key], percent, description)
        else:
            create: Callable[..., Any] = create_progress_artifact
            self._ids[key] = create(percent, key=key, description=description)


def _shown(percent: float) -> float:
    """With one decimal, for the UI shows every digit it gets; 100 only when all is done."""
    return 100.0 if percent >= 100 else min(99.9, max(0.0, round(percent, 1)))


def artifact_key(*parts: str) -> str:
    """The parts as an artifact's key, which may hold lower case letters, digits and dashes; no part twice in a row."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts]
    kept = [slug for place, slug in enumerate(slugs) if slug and (place == 0 or slug != slugs[place - 1])]
    return "-".join(kept) or "progress"
