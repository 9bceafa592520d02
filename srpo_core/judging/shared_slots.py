"""Places of which so many may be taken at once, shared by event loops that run in different threads.

`asyncio.Semaphore` belongs to one loop. A place that comes free goes to whoever has waited longest, in whichever thread.
"""

import asyncio
import threading
from collections import deque

Waiting = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class SharedSlots:
    """`size` places."""

    def __init__(self, size: int) -> None:
        """All are free."""
        self._free = size
        self._waiting: deque[Waiting] = deque()
        self._lock = threading.Lock()

    async def take(self) -> None:
        """Take a place; waits until one is free."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                return
            given: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, given))
        try:
            await given
        except asyncio.CancelledError:
            self._leave_queue((loop, given))
            raise

    def give_back(self) -> None:
        """Free a place that was taken."""
        with self._lock:
            while self._waiting:
                loop, given = self._waiting.popleft()
                if not given.cancelled() and not loop.is_closed():
                    loop.call_soon_threadsafe(self._hand_over, given)
                    return
            self._free += 1

    def _hand_over(self, given: "asyncio.Future[None]") -> None:
        """In the loop of the one who waits, who may have left in the meantime."""
        if given.cancelled():
            self.give_back()
        else:
            given.set_result(None)

    def _leave_queue(self, waiting: Waiting) -> None:
        """One who waited was cancelled; a place that had been given already is passed on."""
        with self._lock:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        _, given = waiting
        if given.done() and not given.cancelled():
            self.give_back()
