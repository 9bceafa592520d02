"""What the log of an own server tells about its database; nobody reads that log while the UI looks well.

SQLite lets one writer at a time, and one whose transaction began by reading while another wrote is refused at once, however long
it may wait. The server tries such work again, and an event, which a guard may wait for, three times. Does not import Prefect.
"""

import re
from pathlib import Path

from flows.server.check_line import Check
from flows.server.environment import state_folder

TAIL_BYTES = 2_000_000  # some hours of a busy server
_LOCKED = re.compile(rb"^sqlalchemy\.exc\.OperationalError: .*database is locked", re.MULTILINE)  # once a traceback
_LOST = re.compile(rb"will be moved to the dead letter queue")
POSTGRESQL = "several runs at a time want PostgreSQL: srpo serve --database postgresql+asyncpg://user:password@host/name"


def check_server_log(home: Path) -> Check | None:
    """Whether the server that was last started in the home was short of its database; None = it was none of this home."""
    log = state_folder(home) / "server.log"
    if not log.is_file():
        return None
    tail = _tail(log)
    refused, lost = len(_LOCKED.findall(tail)), len(_LOST.findall(tail))
    if not refused and not lost:
        return Check("server log", "ok", "no write was refused by the database")
    found = f"`database is locked` {refused} times in {log}"
    gone = f"; {lost} events were lost for automations, see `open runs`" if lost else "; each was tried again"
    return Check("server log", "absent", found + gone, POSTGRESQL)


def _tail(log: Path) -> bytes:
    with log.open("rb") as source:
        source.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return source.read()
