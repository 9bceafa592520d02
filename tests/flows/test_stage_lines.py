"""The line that a command prints after each stage."""

import logging
from pathlib import Path

import pytest

from flows.stage_lines import with_line
from storage.artifact import Artifact, find_artifact, writing


def make_contamination(home: Path) -> Artifact:
    """A stage that writes its artifact once."""
    done = find_artifact(home, "contamination", "abc")
    if done is None:
        with writing(home, "contamination", "abc", version=1, settings={}, parents={}) as writer:
            done = writer.complete([], counts={"pairs_read": 3000})
    return done


def test_a_stage_says_what_it_made_and_at_once_afterwards_that_it_was_complete(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "srpo")
    stage = with_line(make_contamination)
    for _ in range(2):
        stage(tmp_path)
    first, second = caplog.messages
    assert first.endswith(" s (3,000 pairs read)")
    assert "complete already" in second
