"""`srpo export` of a policy that a whole run made: the card's numbers are those of the database."""

import json
from pathlib import Path

import pytest

from flows.cli import main
from storage.results_db import run_query


def test_the_card_holds_sources_win_rates_judge_and_commit(
    tiny_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = run_query(tiny_home, "SELECT policy_id FROM policies WHERE method = 'srpo'").to_pylist()
    assert main(["export", row["policy_id"], str(tmp_path / "out"), "--home", str(tiny_home), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json", "templates.json"} <= set(printed["files"])
    text = (tmp_path / "out" / "README.md").read_text()
    rates = "SELECT win_rate, ci_low, ci_high, n_scored FROM win_rates WHERE policy_id = (SELECT policy_id FROM policies"
    for rate in run_query(tiny_home, f"{rates} WHERE method = 'srpo')").to_pylist():
        interval = f"{100 * rate['ci_low']:.1f}–{100 * rate['ci_high']:.1f} %"
        assert f"| {100 * rate['win_rate']:.1f} % | {interval} | {rate['n_scored']} | 0 |" in text
    read = run_query(tiny_home, "SELECT settings FROM artifacts WHERE stage = 'sources'")
    sources = [json.loads(one) for one in read["settings"].to_pylist()]
    commit = run_query(tiny_home, "SELECT any_value(git_commit) AS c FROM artifacts WHERE stage = 'policies'")["c"][0].as_py()
    assert all(one["sha256"] in text for one in sources) and commit in text and "judge `rule`" in text
    assert "licence unknown" in text and str(tiny_home) not in text


def test_a_folder_that_is_in_use_and_a_push_without_a_token_are_one_sentence(
    tiny_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "notes.txt").write_text("mine")
    policy = run_query(tiny_home, "SELECT policy_id FROM policies WHERE method = 'srpo'")["policy_id"][0].as_py()
    for arguments, part in ((["--push", "ada/reviser"], "HF_TOKEN"), ([], "notes.txt")):
        assert main(["export", policy, str(tmp_path), "--home", str(tiny_home), *arguments]) == 2
        assert part in capsys.readouterr().err
