"""A journal keeps every whole row through a crash, drops only a torn last line, and hides no damage."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import journal as journal_module
from storage.artifact import writing
from storage.errors import BrokenArtifact
from storage.journal import list_journals, new_journal, read_journal, write_parts

ROOT = Path(__file__).parent.parent.parent


@given(st.lists(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=20)), max_size=8))
def test_any_row_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    """Newlines, NULs, line separators and lone surrogates included."""
    rows = [*rows, {"text": "a\nb\u2028c\x00\ud800"}]
    with new_journal(tmp_path_factory.mktemp("journal")) as journal:
        for row in rows:
            journal.append(row)
    assert [row for _, row in read_journal(journal.path)] == rows


def test_every_cut_loses_at_most_the_last_row(tmp_path: Path) -> None:
    rows = [{"n": n, "text": "x\ny"} for n in range(3)]
    with new_journal(tmp_path) as journal:
        ends = [journal.append(row) for row in rows][1:] + [journal.path.stat().st_size]
    whole = journal.path.read_bytes()
    for cut in range(len(whole) + 1):
        journal.path.write_bytes(whole[:cut])
        assert [row for _, row in read_journal(journal.path)] == rows[: sum(end <= cut for end in ends)]


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "journal-1-a.jsonl"
    path.write_bytes(b'{"n":1}\n\x00\x00\x00\n{"n":3}\n')
    with pytest.raises(BrokenArtifact, match="line 2 of"):
        list(read_journal(path))


def test_two_writers_never_share_a_file(tmp_path: Path) -> None:
    with new_journal(tmp_path) as first, new_journal(tmp_path) as second:
        first.append({"writer": 1})
        second.append({"writer": 2})
    assert first.path != second.path
    assert sorted(row["writer"] for path in list_journals(tmp_path) for _, row in read_journal(path)) == [1, 2]
    with pytest.raises(FileExistsError):
        journal_module.Journal(first.path)


def test_rows_reach_the_disk_within_a_second_and_share_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[float, int]] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (real(fd), synced.append((time.monotonic(), os.fstat(fd).st_size)))[0])
    with new_journal(tmp_path) as journal:
        for n in range(200):
            journal.append({"n": n})
        written = time.monotonic()
        size = journal.path.stat().st_size
        while not any(covered == size for _, covered in synced) and time.monotonic() < written + 5:
            time.sleep(0.01)
        assert synced[-1][1] == size and synced[-1][0] - written < 1
        assert len(synced) < 10


def test_a_row_is_in_the_file_before_append_returns_so_a_kill_loses_none(tmp_path: Path) -> None:
    """The child writes without pause and is killed with -9; every row it reported as appended is there."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from storage.journal import new_journal
journal = new_journal(Path({str(tmp_path)!r}))
for n in range(10**6):
    journal.append({{"n": n, "pad": "x" * 500}})
    print(n, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    reported = [int(child.stdout.readline()) for _ in range(300)]
    os.kill(child.pid, signal.SIGKILL)
    reported += [int(line) for line in child.stdout.read().splitlines() if line]
    child.wait()
    [path] = list_journals(tmp_path)
    stored = [row["n"] for _, row in read_journal(path)]
    assert stored[: len(reported)] == reported and len(stored) <= len(reported) + 1


def test_a_refused_write_leaves_no_half_line_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes ten bytes and is full; after room is made, the file is whole."""
    real = os.write
    with new_journal(tmp_path) as journal:
        journal.append({"n": 1})
        answers = iter([lambda fd, data: real(fd, data[:10]), _disk_full])
        monkeypatch.setattr(os, "write", lambda fd, data: next(answers)(fd, data))
        with pytest.raises(OSError, match="No space"):
            journal.append({"n": 2, "pad": "x" * 100})
        monkeypatch.setattr(os, "write", real)
        journal.append({"n": 3})
    assert [row["n"] for _, row in read_journal(journal.path)] == [1, 3]


def _disk_full(fd: int, data: bytes) -> int:
    raise OSError(28, "No space left on device")


def test_a_failed_fsync_is_raised_and_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SYNC_SECONDS", 0.01)
    monkeypatch.setattr(os, "fsync", lambda fd: _disk_full(fd, b""))
    journal = new_journal(tmp_path)
    journal.append({"n": 1})
    deadline = time.monotonic() + 5
    while journal._sync_error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(OSError, match="No space"):
        journal.append({"n": 2})
    with pytest.raises(OSError, match="No space"):
        journal.close()


def test_threads_may_append_at_once(tmp_path: Path) -> None:
    with new_journal(tmp_path) as journal:
        threads = [threading.Thread(target=lambda k=k: [journal.append({"k": k, "n": n}) for n in range(100)]) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = [(row["k"], row["n"]) for _, row in read_journal(journal.path)]
    assert sorted(rows) == [(k, n) for k in range(4) for n in range(100)]


def test_compaction_keeps_order_in_parts_of_a_thousand(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int64()), ("text", pa.string())])
    with writing(tmp_path, "games", "f", version=1, settings={}, parents={}) as writer:
        files = write_parts(writer, ({"n": n, "text": None} for n in range(2500)), schema)
        artifact = writer.complete(files)
    assert [entry["rows"] for entry in artifact.manifest["files"]] == [1000, 1000, 500]
    assert [row["n"] for row in artifact.rows()] == list(range(2500))
    assert json.loads((artifact.path / "manifest.json").read_text())["stage"] == "games"
