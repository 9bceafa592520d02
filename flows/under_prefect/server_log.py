"""What stages log reaches the run's log on the Prefect server."""

import logging
import threading

from prefect.logging.handlers import APILogHandler

logger = logging.getLogger("srpo")


class _ServerLog:
    """Sends lines of the logger `srpo` to the server while any stage is under way; several may be, side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._handler: APILogHandler | None = None
        self._level = logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if not any(isinstance(one, APILogHandler) for one in logger.handlers):  # also by PREFECT_LOGGING_EXTRA_LOGGERS
                self._handler, self._level = APILogHandler(), logger.level
                logger.addHandler(self._handler)
                logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._handler is not None:
                logger.removeHandler(self._handler)
                logger.setLevel(self._level)
                self._handler = None


_server_log = _ServerLog()


def log_reaches_prefect() -> _ServerLog:
    """A context in which lines of the logger `srpo` go to the log of the run that is under way."""
    return _server_log
