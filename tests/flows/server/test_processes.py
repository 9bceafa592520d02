"""What is kept of the output of processes, and how long ending them may take."""

import os
import re

from flows.server.processes import CHECKOUT, CHECKPOINT_SECONDS, END_SECONDS, start_process


def test_the_output_of_the_start_before_is_kept(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("why it ended", encoding="utf-8")
    started = start_process("server", ["--version"], os.environ, log)
    started.process.kill()
    started.process.wait()
    assert (tmp_path / "server.log.1").read_text(encoding="utf-8") == "why it ended"
    assert "why it ended" not in log.read_text(encoding="utf-8")


def test_the_service_of_the_docs_is_given_longer_than_ending_can_take():
    """Runs get their time for a checkpoint; the rest of `end_workers` waits four times, `end_server` twice."""
    unit = (CHECKOUT / "docs" / "prefect.md").read_text(encoding="utf-8")
    (given,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(given) > CHECKPOINT_SECONDS + 6 * END_SECONDS
