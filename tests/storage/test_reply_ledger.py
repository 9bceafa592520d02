"""The ledger finds every kept reply, of every process, and never holds a failed call."""

import multiprocessing
import os
from pathlib import Path

import pytest

from storage import reply_ledger
from storage.errors import BrokenArtifact
from storage.reply_ledger import ReplyLedger, find_reply


def record(key: str, words: str = "yes") -> dict[str, object]:
    return {
        "request_hash": key,
        "request": {"model": "m"},
        "response": {"choices": [{"message": {"content": words}}]},
        "seconds": 0.1,
    }


def test_a_kept_reply_is_found_by_this_and_every_later_process(tmp_path: Path) -> None:
    with ReplyLedger(tmp_path) as ledger:
        assert ledger.find("k1") is None
        ledger.keep(record("k1", "line\nbreak \ud83d é"))
        assert ledger.find("k1") == record("k1", "line\nbreak \ud83d é")
    assert find_reply(tmp_path, "k1") == record("k1", "line\nbreak \ud83d é")
    assert find_reply(tmp_path, "k2") is None


def test_looking_up_creates_nothing(tmp_path: Path) -> None:
    with ReplyLedger(tmp_path) as ledger:
        assert ledger.find("k") is None and len(ledger) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [{"request_hash": "k"}, {"response": {}}, {"request_hash": "k", "response": None}])
def test_a_failed_call_is_not_a_reply(tmp_path: Path, bad: dict[str, object]) -> None:
    with ReplyLedger(tmp_path) as ledger, pytest.raises(ValueError, match="request_hash and response"):
        ledger.keep(bad)
    assert find_reply(tmp_path, "k") is None


def test_the_hash_may_stand_anywhere_in_the_record(tmp_path: Path) -> None:
    with ReplyLedger(tmp_path) as ledger:
        ledger.keep({"response": {"a": 1}, "request_hash": "k"})
    assert find_reply(tmp_path, "k") == {"request_hash": "k", "response": {"a": 1}}


def test_the_first_reply_kept_stays_the_answer(tmp_path: Path) -> None:
    with ReplyLedger(tmp_path) as ledger:
        ledger.keep(record("k", "first"))
        ledger.keep(record("k", "second"))
        assert ledger.find("k") == record("k", "first")
    assert find_reply(tmp_path, "k") == record("k", "first")


def test_what_another_process_appends_is_seen_without_opening_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_ledger, "_REFRESH_SECONDS", 0.0)
    with ReplyLedger(tmp_path) as mine, ReplyLedger(tmp_path) as theirs:
        assert mine.find("k1") is None
        theirs.keep(record("k1"))
        assert mine.find("k1") == record("k1")
        mine.keep(record("k2"))
        theirs.keep(record("k3"))
        assert theirs.find("k2") == record("k2") and mine.find("k3") == record("k3")
        assert len(mine) == len(theirs) == 3


def _keep_many(home: Path, writer: int) -> None:
    with ReplyLedger(home) as ledger:
        for n in range(200):
            ledger.keep(record(f"{writer}-{n}", "x" * 300))


def test_processes_writing_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_keep_many, args=(tmp_path, w)) for w in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    ledger = ReplyLedger(tmp_path)
    assert len(ledger) == 600
    assert all(ledger.find(f"{w}-{n}") == record(f"{w}-{n}", "x" * 300) for w in range(3) for n in range(0, 200, 17))
    assert len(list((tmp_path / "reply_ledger").iterdir())) == 3


def test_a_torn_last_line_is_no_reply_and_hides_none(tmp_path: Path) -> None:
    with ReplyLedger(tmp_path) as ledger:
        ledger.keep(record("k1"))
        ledger.keep(record("k2"))
    [path] = (tmp_path / "reply_ledger").iterdir()
    os.truncate(path, path.stat().st_size - 5)
    assert find_reply(tmp_path, "k1") == record("k1") and find_reply(tmp_path, "k2") is None
    with ReplyLedger(tmp_path) as ledger:
        ledger.keep(record("k2", "again"))
    assert find_reply(tmp_path, "k2") == record("k2", "again")


def test_a_damaged_file_is_named_not_skipped(tmp_path: Path) -> None:
    with ReplyLedger(tmp_path) as ledger:
        ledger.keep(record("k1"))
        ledger.keep(record("k2"))
    [path] = (tmp_path / "reply_ledger").iterdir()
    whole = path.read_bytes()
    path.write_bytes(b"garbage\n" + whole)
    with pytest.raises(BrokenArtifact, match=f"byte 0 of {path}"):
        find_reply(tmp_path, "k1")
    path.write_bytes(whole.replace(b'"model"', b'"mod\\q'))
    with pytest.raises(BrokenArtifact, match="expected a reply at byte"):
        find_reply(tmp_path, "k1")
