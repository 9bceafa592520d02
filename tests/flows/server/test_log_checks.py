"""What doctor reads from a server's log, and that the refusal it tells of is one that no waiting helps against."""

import sqlite3
import time
from pathlib import Path

import pytest

from flows.server import log_checks
from flows.server.environment import state_folder
from flows.server.log_checks import check_server_log

TRACEBACK = """\
09:44:34.728 | ERROR   | prefect.server.utilities.messaging.memory - Failed in consume_loop
Traceback (most recent call last):
sqlite3.OperationalError: database is locked

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database is locked
[SQL: INSERT INTO automation_bucket (automation_id, trigger_id) VALUES (?, ?)]
"""
LOST = "09:44:35.001 | WARNING | prefect - Message failed after 4 retries and will be moved to the dead letter queue\n"


def log_of(home: Path, text: str) -> None:
    state_folder(home).mkdir(parents=True)
    (state_folder(home) / "server.log").write_text(text, encoding="utf-8")


def test_a_home_without_a_server_of_its_own_has_no_line(tmp_path: Path) -> None:
    assert check_server_log(tmp_path) is None


def test_a_log_without_refusals_is_well(tmp_path: Path) -> None:
    log_of(tmp_path, "09:44:34.728 | INFO    | prefect - Check out the dashboard\n")
    check = check_server_log(tmp_path)
    assert check is not None and (check.status, check.needed) == ("ok", "")


def test_refused_writes_are_counted_once_and_the_remedy_is_named(tmp_path: Path) -> None:
    log_of(tmp_path, 3 * TRACEBACK)
    check = check_server_log(tmp_path)
    assert check is not None and check.status == "absent"  # what works, though not well, ends doctor with status 0
    assert "3 times" in check.found and "each was tried again" in check.found
    assert "--database postgresql+asyncpg://" in check.needed


def test_events_that_no_guard_saw_are_told(tmp_path: Path) -> None:
    log_of(tmp_path, 4 * TRACEBACK + LOST)
    check = check_server_log(tmp_path)
    assert check is not None and "1 events were lost" in check.found


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_checks, "TAIL_BYTES", len(TRACEBACK))
    log_of(tmp_path, 5 * TRACEBACK)
    check = check_server_log(tmp_path)
    assert check is not None and "1 times" in check.found


def test_the_refusal_comes_at_once_however_long_a_writer_may_wait(tmp_path: Path) -> None:
    """A transaction that has read while another wrote: why no timeout is set, and why PostgreSQL is the remedy."""
    reader, writer = (sqlite3.connect(tmp_path / "a.db", isolation_level=None) for _ in range(2))
    reader.execute("PRAGMA journal_mode = WAL")
    reader.execute("PRAGMA busy_timeout = 60000")
    reader.execute("CREATE TABLE t (x)")
    reader.execute("BEGIN DEFERRED")
    reader.execute("SELECT * FROM t").fetchall()
    writer.execute("INSERT INTO t VALUES (1)")
    began = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        reader.execute("INSERT INTO t VALUES (2)")
    assert time.monotonic() - began < 30  # half of what it may wait
    reader.close()
    writer.close()
