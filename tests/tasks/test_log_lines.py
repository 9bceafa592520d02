"""Lines of the log are sentences: no dictionary, and no path longer than it has to be."""

import json
import logging
from pathlib import Path

import pytest

from srpo_core.settings.data import PreferenceSourceSettings
from tasks.log_lines import below_home, in_words
from tasks.preferences import ingest_preferences


def test_counts_are_words_with_thousands_apart() -> None:
    counts = {"pairs": 2000, "rejected_rows": 0, "merged_duplicates": 12}
    assert in_words(counts) == "2,000 pairs, 0 rejected rows, 12 merged duplicates"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/data/srpo/policies/0123456789abcdef/output.log", "policies/0123456789abcdef/output.log"),
        ("/data/policies/home/games/ab/judging", "games/ab/judging"),
        ("/data/votes/a.jsonl", "/data/votes/a.jsonl"),
        ("hub:openai/votes@ab12/train", "hub:openai/votes@ab12/train"),
    ],
)
def test_what_lies_in_the_home_is_named_from_its_stage_on(path: str, shown: str) -> None:
    assert below_home(path) == shown
    assert below_home(Path(path)) == shown


def test_reading_pairs_says_in_sentences_what_came_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pair, the same again, and a row that is none."""
    pair = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    source = tmp_path / "votes.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in (pair, pair, {"prompt": "p"})), encoding="utf-8")
    with caplog.at_level(logging.INFO, "srpo"):
        for seed in (0, 1):
            settings = PreferenceSourceSettings(paths=[str(source)], seed=seed, validation_share=0, test_share=0)
            ingest_preferences(settings, tmp_path / "home")
    read, merged, again, _ = caplog.messages
    assert read == "votes.jsonl: format trl, 2 pairs, 1 rejected rows, 3 rows read"
    assert merged == "preferences: 1 pairs, 1 rejected rows, 1 merged duplicates, 3 rows read"
    assert again == "votes.jsonl was read before: 2 pairs"
