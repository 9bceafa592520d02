"""`srpo audit` as a user meets it: one command, four questions, one object with --json, one sentence for a mistake."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from srpo_core.settings.audit import ONE_SET, ONE_SOURCE
from tests.judge_server import JudgeServer
from tests.tasks.judged_texts import write_prompts
from tests.tasks.test_audit import put_pairs

ROW = {"prompt_id": "a", "order": "as_is", "score": 1, "human": 1}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "SRPO_DEBUG", "SRPO_HOME", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    status, out, err = call(capsys, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def judged_by(server: JudgeServer) -> list[object]:
    return ["--judge", "api", "--model", "test-judge", "--base-url", server.url]


def test_a_file_is_audited_in_text_and_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_text("".join(json.dumps(ROW | {"prompt_id": p, "human": h}) + "\n" for p, h in (("a", 1), ("b", 0))))
    found = answer(capsys, "audit", path)
    [judge] = found["judges"]
    assert {row["measure"]: row["estimate"] for row in judge["measures"]}["agreement"] == 0.5
    status, out, err = call(capsys, "audit", path)
    assert status == 0, err
    assert "cohen_kappa" in out and "nan" not in out


def test_an_ignored_column_that_looks_like_a_known_one_is_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_text(json.dumps(ROW | {"clusterid": "x"}) + "\n")
    hint = "column 'clusterid' is ignored and looks like cluster_id"
    assert answer(capsys, "audit", path)["hints"] == [hint]
    assert hint in call(capsys, "audit", path)[1]


def test_a_judge_is_audited_against_the_pairs_of_a_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preferences = put_pairs(tmp_path, 6, mislabelled=2)
    asked = ["audit", "--preferences", preferences.fingerprint, "--home", tmp_path, "--max-pairs", 6, "--repeats", 2]
    with JudgeServer() as server:
        found = answer(capsys, *asked, *judged_by(server))
        assert len(server.requests) == 6 * 2 * 2
        status, out, _ = call(capsys, *asked, *judged_by(server))
    assert found["pairs"] == 6 and found["games"] == 24
    assert {row["measure"]: row["estimate"] for row in found["measures"]}["agreement"] == pytest.approx(4 / 6)
    assert status == 0 and "swap_consistency" in out and found["audit"] in out


def test_a_judge_is_attacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write_prompts(tmp_path, 1, golds=["document0 amber basin cedar"])
    with JudgeServer() as server:
        found = answer(capsys, "audit", "--injections", "--prompts", prompts.path, "--home", tmp_path, *judged_by(server))
    assert found["rates"][-1]["attack"] == "all" and found["rates"][-1]["attack_rate"] == 0


def test_a_sentinel_is_frozen_looks_and_shows_its_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preferences = put_pairs(tmp_path, 3)
    with JudgeServer() as server:
        look = ["audit", "--sentinel", "--home", tmp_path, *judged_by(server)]
        first = answer(capsys, *look, "--preferences", preferences.fingerprint, "--max-pairs", 3)
        second = answer(capsys, *look)
        third = answer(capsys, *look, "--frozen", first["sentinel"])
        status, out, _ = call(capsys, *look)
    assert (first["looks_made"], second["looks_made"], len(third["looks"])) == (5, 1, 7)
    assert first["alarm"] is None and third["alarm"] is False and first["pairs"] == 3
    assert status == 0 and "flip_p_value" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "expected a FILE of labelled verdicts, --preferences ID, --injections or --sentinel"),
        (["nowhere.csv"], "nowhere.csv"),
        (["v.csv", "--sentinel"], "expected a FILE or --sentinel, found both"),
        (["v.csv", "--max-pairs", "3"], "expected a FILE or --max-pairs, found both"),
        (["--sentinel", "--repeats", "3"], "unknown setting repeats in srpo audit --sentinel"),
        (["--preferences", "x", "--seed", "-1"], "setting seed in srpo audit: -1 is less than the minimum of 0"),
        (["--preferences", "x", "--max-pairs", "0"], "setting max_pairs in srpo audit: 0 is less than the minimum of 1"),
        (["--preferences", "x", "--repeats", "1000"], "1000 is greater than the maximum of 999"),
        (["v.csv", "--seed", "0"], "expected a FILE or --seed, found both"),
        (["v.csv", "--base-url", "http://x"], "expected a FILE or --base-url, found both"),
        (["v.csv", "--config", "x.yaml"], "expected a FILE or --config, found both"),
        (["v.csv", "--set", "temperature=1"], "expected a FILE or --set, found both"),
        (["--sentinel", "--max-pairs", "3"], "a frozen set keeps its games"),
        (["--sentinel", "--seed", "0"], "expected --preferences beside --seed to freeze games, found --seed alone"),
        (["--sentinel", "--frozen", "x", "--seed", "1"], "expected --preferences beside --seed to freeze games"),
        (["--injections", "--sentinel"], "expected one of --injections and --sentinel"),
        (["--injections"], f"srpo audit --injections: {ONE_SOURCE}, found neither"),
        (["--injections", "--prompts", "x", "--preferences", "y"], f"{ONE_SOURCE}, found both"),
        (["--prompts", "x"], "expected --injections beside --prompts"),
        (["--frozen", "x", "--preferences", "y"], "expected --sentinel beside --frozen"),
        (["--sentinel", "--frozen", "x", "--preferences", "y"], f"srpo audit --sentinel: {ONE_SET}, found both"),
        (["--preferences", "x"], "expected --judge"),
        (["--preferences", "x", "--judge", "api"], "model"),
        (["--preferences", "x", "--judge", "oracle"], "found oracle"),
        (["--preferences", "x", "--judge", "rule"], "expected one complete artifact of stage preferences"),
        (["--sentinel", "--judge", "rule"], "expected one frozen set"),
        (["--preferences", "x", "--judge", "rule", "--set", "training.beta=1"], "training"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    status, out, err = call(capsys, "audit", *arguments, "--home", tmp_path)
    assert (status, out) == (2, "")
    assert sentence in err and "Traceback" not in err and err.count("srpo: ") == 1
