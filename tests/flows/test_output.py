"""What reaches the terminal: no control characters of a file, and numbers a person can read."""

import json

from flows.commands.output import print_fields, print_json, print_table
from tests.flows.test_cli import call
from tests.srpo_core.scoring.test_score_files import ROWS, write

ESCAPES = "a\x1b[31m\x1b]0;title\x07b\x9b2J\x7f\rc\x00"


def controls(text: str) -> set[str]:
    return {one for one in text if (one < " " and one != "\n") or "\x7f" <= one <= "\x9f"}


def test_control_characters_of_texts_and_names_do_not_reach_the_terminal(capsys):
    print_table(["name", ESCAPES], [[ESCAPES, [ESCAPES]], ["x", {ESCAPES: 1}]])
    print_fields({ESCAPES: ESCAPES, "list": [ESCAPES], "rows": [{ESCAPES: ESCAPES}], "inner": {"a": ESCAPES}})
    out = capsys.readouterr().out
    assert not controls(out) and "title" in out


def test_control_characters_of_a_scored_file_do_not_reach_the_terminal(capsys, tmp_path):
    rows = [row | {"judge": judge, "repeat_index": 0, ESCAPES: 1} for judge in ("kind", ESCAPES) for row in ROWS]
    status, out, _ = call(capsys, "score", write(tmp_path / "v.jsonl", rows))
    assert status == 0 and not controls(out) and "flip_rate" in out
    status, out, _ = call(capsys, "power", write(tmp_path / "v.jsonl", rows))
    assert status == 0 and not controls(out)


def test_text_has_six_significant_digits_and_json_all(capsys):
    values = {
        "ci_high": 0.9999999999999998,
        "inner": {"third": 1 / 3},
        "list": [2 / 3, 7],
        "whole": 12345678,
        "rows": [{"a": 1e-7 / 3}],
    }
    print_fields(values)
    out = capsys.readouterr().out
    for line in ("ci_high: 1.0", "third: 0.333333", "list: [0.666667, 7]", "whole: 12345678", "a 3.33333e-08"):
        assert line + "\n" in out
    print_json(values)
    assert json.loads(capsys.readouterr().out) == values
