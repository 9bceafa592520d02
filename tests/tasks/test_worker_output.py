"""Of what workers print, warnings and errors of libraries reach the log, once each and not without end."""

import logging
from pathlib import Path

import pytest

from tasks.worker_output import LONGEST_LINE, MOST_LINES, WorkerOutput


@pytest.fixture
def output(caplog: pytest.LogCaptureFixture) -> WorkerOutput:
    caplog.set_level(logging.INFO, "srpo")
    return WorkerOutput("train", Path("/home/policies/ab/output.log"))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_the_log_names_the_file_with_everything(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "srpo"):
        WorkerOutput("train", Path("/home/policies/ab/output.log"))
    assert caplog.messages == ["train: everything the workers print is in policies/ab/output.log"]


@pytest.mark.parametrize(
    "line",
    [
        "/site-packages/torch/nn/modules/module.py:12: UserWarning: the gradient is empty",
        "[rank1]: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB",
        "Traceback (most recent call last):",
        "ERROR 11-21 worker died",
        "WARNING:transformers:tokenizer has no padding token",
    ],
)
def test_trouble_reaches_the_log(line: str, output: WorkerOutput, caplog: pytest.LogCaptureFixture) -> None:
    output.take(line)
    assert warnings_in(caplog) == [f"train: {line}"]


@pytest.mark.parametrize("line", ["Loading weights: 100%", "  warnings.warn(", "terrorized mirrors", ""])
def test_other_lines_stay_in_the_file(line: str, output: WorkerOutput, caplog: pytest.LogCaptureFixture) -> None:
    output.take(line)
    assert warnings_in(caplog) == []


def test_what_several_ranks_print_is_told_once(output: WorkerOutput, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(8):
        output.take("FutureWarning: old")
    assert warnings_in(caplog) == ["train: FutureWarning: old"]


def test_a_library_that_goes_on_warning_does_not_fill_the_server(output: WorkerOutput, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(10 * MOST_LINES):
        output.take(f"Warning {number} " + "x" * 2 * LONGEST_LINE)
    found = warnings_in(caplog)
    assert len(found) == MOST_LINES + 1 and found[-1] == "train: more such lines are in policies/ab/output.log"
    assert max(map(len, found)) == len("train: ") + LONGEST_LINE
