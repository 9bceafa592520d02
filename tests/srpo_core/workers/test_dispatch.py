"""A worker's own exit status and sentence, its progress lines, and its files."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from srpo_core.errors import InputError, WorkFailed
from srpo_core.training_loop import Interrupted
from srpo_core.workers import dispatch
from srpo_core.workers.jobs import JobFile
from srpo_core.workers.parts import read_rows, write_json, write_part
from srpo_core.workers.progress import MARK, ProgressLines
from tests.small_training import resources
from tests.srpo_core.workers.test_diagnostics import ceiling_job

SCHEMA = pa.schema([("n", pa.int64())])


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(MARK)) for line in text.splitlines() if line.startswith(MARK)]


@pytest.mark.parametrize(
    ("error", "status"), [(InputError("found nothing"), 2), (WorkFailed("it broke"), 1), (Interrupted("stopped"), 143), (None, 0)]
)
def test_exit_status_and_sentence_say_what_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception | None, status: int
) -> None:
    def work(*_: Any) -> None:
        if error:
            raise error

    monkeypatch.setattr(dispatch, "do_job", work)
    file = tmp_path / "jobs.json"
    file.write_text(JobFile(jobs=[ceiling_job(tmp_path)], resources=resources()).model_dump_json())
    assert dispatch.main(str(file)) == status
    output = capfd.readouterr().out
    if status in (1, 2):
        assert lines_of(output) == [{"failure": str(error), "status": status}]
    assert status != 143 or "stopped" in output


def test_a_bug_is_not_dressed_up_as_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(dispatch, "do_job", bug)
    file = tmp_path / "jobs.json"
    file.write_text(JobFile(jobs=[ceiling_job(tmp_path)], resources=resources()).model_dump_json())
    with pytest.raises(ZeroDivisionError):
        dispatch.main(str(file))


def test_progress_lines_are_few_and_the_last_is_always_there(capfd: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines("job", 1000, "pairs", enabled=True, period=60)
    for done in range(1, 1001):
        lines.show(done, {"loss": 0.5})
    shown = lines_of(capfd.readouterr().out)
    assert [line["done"] for line in shown] == [1, 1000]
    assert shown[0] == {"job": "job", "done": 1, "total": 1000, "unit": "pairs", "values": {"loss": 0.5}}
    ProgressLines("job", 1, "pairs", enabled=False).show(1)
    assert not capfd.readouterr().out


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    write_part(tmp_path / "part.parquet", [{"n": 1}], SCHEMA)
    write_part(tmp_path / "more.parquet", [{"n": 2}, {"n": 3}], SCHEMA)
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(pa.ArrowInvalid):
        write_part(tmp_path / "bad.parquet", [{"n": "no number"}], SCHEMA)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more.parquet", "part.parquet", "x.json"]
    assert read_rows([str(tmp_path / "part.parquet"), str(tmp_path / "more.parquet")], ["n"]) == [{"n": 1}, {"n": 2}, {"n": 3}]
