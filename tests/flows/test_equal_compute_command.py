"""`srpo equal-compute` on a small home: the table, the object, the chart, and mistakes as one sentence."""

import json
import shutil
from pathlib import Path

import pytest

from flows.cli import main
from storage.artifact import list_artifacts
from tasks.equal_compute import CHART
from tests.conftest import TINY_RUN


@pytest.fixture
def home(tiny_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_home, tmp_path / "home"))


def arguments(home: Path, *more: str) -> list[str]:
    policy = next(one for one in list_artifacts(home, "policies") if one.settings["method"] == "srpo")
    prompts = next(one for one in list_artifacts(home, "prompts") if one.settings["name"] == "id")
    return ["equal-compute", "--home", str(home), "--policy", policy.fingerprint, "--prompts", prompts.fingerprint, *more]


def test_a_run_and_the_command_ask_the_same_of_the_chain_that_is_there(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chains = len(list_artifacts(home, "completions"))
    assert main([*TINY_RUN, "--set", "equal_compute.num_samples=4", "--home", str(home)]) == 0
    capsys.readouterr()
    asked = arguments(home, "--samples", "4", "--judge", "rule", "--json")
    assert main(asked) == 0
    (found,) = json.loads(capsys.readouterr().out)["artifacts"]
    assert len(list_artifacts(home, "completions")) == chains + 3, "drafts on three sets; the chains were there"
    assert len(list_artifacts(home, "equal_compute")) == 3, "the policy's own decoding is the pipeline's"
    curve, matches = found["equal_compute"], found["equal_compute_matches"]
    assert {row["selector"] for row in curve} == {None, "likelihood_sum", "likelihood_mean", "judge", "oracle"}
    assert [row["num_revisions"] for row in matches if row["selector"] == "oracle"] == [1]
    assert all(row["n_prompts"] == 10 for row in curve) and Path(found["chart"]).read_text().startswith("<svg")
    assert main(asked[:-1]) == 0
    printed = capsys.readouterr().out
    assert "scored by rule: revisions minus best of n" in printed and "upper bound" in printed
    assert f"curve: {found['chart']}" in printed and Path(found["chart"]).name == CHART
    assert main(["publish", "--home", str(home)]) == 0 and main(["ask", "equal_compute", "--home", str(home)]) == 0
    assert "likelihood_mean" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--judge", "rule", "--select", "luck"], "expected --select likelihood, judge, reward_model, found 'luck'"),
        (["--judge", "rule", "--select", "reward_model"], "expected --reward-model DIR|HUBID"),
        ([], "expected --judge rule"),
        (["--judge", "rule", "--select", ","], "expected at least one name with --select, found ','"),
        (["--judge", "rule", "--samples", "1"], "setting num_samples in equal_compute"),
        (["--judge", "rule", "--revisions", "0"], "expected generation.num_revisions of at least 1"),
        (["--judge", "rule", "--set", "training.beta=1"], "expected settings of equal_compute"),
    ],
)
def test_a_mistake_is_one_sentence(tiny_home: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str) -> None:
    assert main(arguments(tiny_home, *more)) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "empty"),
    [("equal-compute", "--prompts"), ("generate", "--prompts"), ("generate", "--policy")],
)
def test_no_ids_at_all_are_a_mistake(tiny_home: Path, capsys: pytest.CaptureFixture[str], command: str, empty: str) -> None:
    given = arguments(tiny_home, *(["--judge", "rule"] if command == "equal-compute" else []))
    given[0], given[given.index(empty) + 1] = command, ","
    assert main(given) == 2
    assert f"expected at least one name with {empty}, found ','" in capsys.readouterr().err
