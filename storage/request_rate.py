"""A limit on requests and tokens a minute that all processes on a home share, in `<home>/request_rates/`.

Each request takes the next place in time, under a file lock; places are as far apart as the rate says. A bucket that holds a
minute's worth would let twice the rate through in its first minute, so this one holds one request. A process that dies while it
waits leaves its place unused; nothing else is lost.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "request_rates"
_FARTHEST = 600.0  # seconds; a place farther away stems from a clock that was set back


class SharedRate:
    """The rate of one server and model, on one home."""

    def __init__(
        self,
        home: Path,
        name: str,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`name`: a file name, the same for all who share the rate. None = no limit. The clock must be that of all processes."""
        self._path = home / FOLDER / f"{name}.json"
        self._request_seconds = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_seconds = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock

    def reserve(self, tokens: int) -> float:
        """Take the next place for a request of about `tokens` and return the seconds to wait for it."""
        with self._locked() as places:
            now = self._clock()
            start = max(now, places["request"], places["token"])
            if start - now > _FARTHEST + self._request_seconds + tokens * self._token_seconds:
                start = now
            if self._request_seconds:
                places["request"] = start + self._request_seconds
            if self._token_seconds:
                places["token"] = start + tokens * self._token_seconds
        return start - now

    def settle(self, tokens: int) -> None:
        """Move the next place by the time of so many tokens more, or fewer when negative, than were reserved."""
        if self._token_seconds:
            with self._locked() as places:
                places["token"] = max(places["token"], self._clock()) + tokens * self._token_seconds

    @contextmanager
    def _locked(self) -> Iterator[dict[str, float]]:
        """The places, seconds since the epoch, which are written back."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            places = _places(os.read(handle, 4096))
            yield places
            text = json.dumps(places).encode()
            os.pwrite(handle, text + b" " * (256 - len(text)), 0)
        finally:
            os.close(handle)


def _places(text: bytes) -> dict[str, float]:
    """Nothing, or what a machine that lost power left half written, is no place taken."""
    try:
        found = json.loads(text)
        return {name: float(found[name]) for name in ("request", "token")}
    except (ValueError, TypeError, KeyError):
        return {"request": 0.0, "token": 0.0}
