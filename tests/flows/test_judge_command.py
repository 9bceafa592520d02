"""`srpo judge` on the command line: the plan, the budget, failed calls, stored replies, and what is said when it cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from storage.artifact import Artifact
from storage.results_db import open_results
from tasks.publishing import publish_results
from tasks.sentinel import CALIBRATION_LOOKS
from tests.homes import put_completions, put_policy, put_preferences, put_prompts
from tests.judge_server import JudgeServer, faults_in_turn


@pytest.fixture
def completions(tmp_path: Path) -> Artifact:
    """A text for each of eight prompts: sixteen games."""
    policy = put_policy(tmp_path, "sft", "sft", {"preferences": put_preferences(tmp_path)})
    return put_completions(tmp_path, policy, put_prompts(tmp_path, "id", "desk", 8), 0)


def srpo(capsys: Any, completions: Artifact, *arguments: Any, status: int = 0) -> Any:
    """Standard output as JSON; of a failure the sentence on standard error."""
    home = completions.path.parent.parent
    given = ["judge", "--completions", completions.fingerprint, "--home", home, *arguments]
    found = main([str(one) for one in [*given, *["--json"] * (status == 0)]])
    printed = capsys.readouterr()
    assert found == status, printed.err
    if status:
        return printed.err.strip().splitlines()[-1]
    return json.loads("\n".join(line for line in printed.out.splitlines() if not line.startswith("@srpo")))  # a worker's own


def options(server: JudgeServer, *more: Any) -> list[Any]:
    return ["--judge", "api", "--model", "m", "--base-url", server.url, "--set", "max_attempts=1", *more]


def test_plan_judge_and_plan_again(capsys: Any, completions: Artifact) -> None:
    with JudgeServer() as server:
        before = srpo(capsys, completions, *options(server, "--plan"))
        assert (before["games"], before["requests"], before["cost_at_most"]) == (16, 16, None) and server.probes == []
        [games] = srpo(capsys, completions, *options(server))["artifacts"]
        assert (games["games"], games["scored"], len(server.requests)) == (16, 16, 16)
        after = srpo(capsys, completions, *options(server, "--plan", "--repeats", 2))
        assert (after["games"], after["stored"], after["requests"], after["probe_requests_at_most"]) == (32, 16, 16, 0)


def test_the_plan_as_text_says_what_is_unknown(capsys: Any, completions: Artifact) -> None:
    home = completions.path.parent.parent
    arguments = ["judge", "--completions", completions.fingerprint, "--home", str(home), "--model", "m", "--plan"]
    assert main([*arguments, "--base-url", "https://judge.invalid/v1"]) == 0
    printed = capsys.readouterr().out
    assert "cost_estimated: unknown" in printed
    assert "requests: 16" in printed and "cost_at_most: unknown" in printed and "prompt_tokens_estimated: " in printed


def test_a_spent_budget_is_exit_status_1_and_running_again_goes_on(capsys: Any, completions: Artifact) -> None:
    with JudgeServer() as server:
        asked = options(server, "--set", "judge.budget.max_requests=13")
        sentence = srpo(capsys, completions, *asked, status=1)
        assert sentence.startswith("srpo: ") and "found 13 requests" in sentence and "run again or raise the budget" in sentence
        srpo(capsys, completions, *asked)
        assert len(server.requests) == 16


def test_failed_calls_are_retried_and_replies_read_again(capsys: Any, completions: Artifact) -> None:
    with JudgeServer(faults_in_turn([None, "400"])) as server:
        assert srpo(capsys, completions, *options(server))["artifacts"][0]["unscored"] == 1
        plan = srpo(capsys, completions, *options(server, "--plan", "--retry-failed"))
        assert plan["requests"] == 1
        assert srpo(capsys, completions, *options(server, "--retry-failed"))["artifacts"][0]["unscored"] == 0
        assert srpo(capsys, completions, *options(server, "--reparse"))["artifacts"][0]["scored"] == 16
        assert len(server.requests) == 17
    with open_results(_published(completions)) as connection:
        rows = connection.sql("SELECT rung, count(*) FROM games GROUP BY ALL").fetchall()
    assert rows == [("json_schema", 16)]


def test_a_judge_with_frozen_games_is_looked_at_each_time_it_judges_and_never_when_it_does_not(
    capsys: Any, completions: Artifact
) -> None:
    with JudgeServer() as server:
        asked = options(server, "--set", "judge.sentinel_games=2")
        srpo(capsys, completions, *asked, "--plan")
        assert server.requests == []
        srpo(capsys, completions, *asked)
        assert len(server.requests) == 16 + 2 * CALIBRATION_LOOKS
        srpo(capsys, completions, *asked)
        srpo(capsys, completions, *asked, "--reparse")
        assert len(server.requests) == 16 + 2 * CALIBRATION_LOOKS + 2, "the games were complete, the frozen ones are asked again"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--judge", "oracle"], "expected --judge rule, or --judge api, reward_model or label_model"),
        (["--judge", "reward_model"], "expected --model NAME for --judge reward_model"),
        (["--judge", "rule", "--retry-failed"], "expected an api judge"),
        (["--judge", "rule", "--reparse", "--plan"], "expected --reparse alone"),
        (["--judge", "rule", "--preset", "tldr"], "unknown setting preset"),
        (["--model", "m", "--set", "budget.max_cost=1"], "both prices beside budget.max_cost"),
        (["--model", "m", "--reparse"], "expected stored replies for these games"),
        (["--model", "m", "--retry-failed"], "expected complete games"),
    ],
)
def test_what_cannot_be_is_one_sentence(capsys: Any, completions: Artifact, arguments: list[str], words: str) -> None:
    assert words in srpo(capsys, completions, *arguments, status=2)


def _published(completions: Artifact) -> Path:
    home = completions.path.parent.parent
    publish_results(home)
    return home


@pytest.mark.parametrize("more", [[], ["--plan"], ["--plan", "--json"], ["--reparse"]])
def test_no_completions_are_a_mistake_and_no_work_done(capsys: Any, tmp_path: Path, more: list[str]) -> None:
    assert main(["judge", "--completions", " , ", "--judge", "rule", "--home", str(tmp_path), *more]) == 2
    printed = capsys.readouterr()
    assert "expected at least one name with --completions, found ' , '; name one" in printed.err and printed.out == ""


@pytest.mark.parametrize("kind", ["reward_model", "label_model"])
def test_a_model_on_this_machine_judges_too(
    capsys: Any, completions: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    from tests.judge_models import save_language_model, save_reward_model
    from tests.stages import Launches

    monkeypatch.setattr("tasks.local_judging.run_jobs", Launches())
    save = save_reward_model if kind == "reward_model" else save_language_model
    model = save(tmp_path / "judge_model")
    [made] = srpo(capsys, completions, "--judge", kind, "--model", model)["artifacts"]
    assert (made["games"], made["scored"]) == (16, 16)
    assert sorted(path.name for path in Path(made["path"]).iterdir()) == [".lease", "manifest.json", "part-00000-0.parquet"]
    again = srpo(capsys, completions, "--judge", kind, "--model", model, "--plan")
    assert (again["games"], again["stored"], again["requests"], again["cost_at_most"]) == (16, 16, 0, 0.0)


def test_identical_texts_are_put_back_between_a_local_judges_games(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from srpo_core.judging.judges import IDENTICAL, Verdict
    from srpo_core.settings.judges import RewardModelJudgeSettings
    from tasks.deciding import decide_games
    from tests.srpo_core.judging.test_judges import game

    played = [game("same", "same "), game("a", "b"), game("c", "c"), game("d", "e")]
    started: list[str] = []

    def decide(games: Any, *_: Any) -> Any:
        for one in games:
            started.append(one.game_id)
            yield one, Verdict("win", 1.0)

    monkeypatch.setattr("tasks.local_judging.decide_locally", decide)
    settings = RewardModelJudgeSettings(model="m")
    decided = list(decide_games(played, settings, tmp_path, journal_folder=tmp_path))
    assert [one for one, _ in decided] == played and [verdict.score for _, verdict in decided] == [0.5, 1.0, 0.5, 1.0]
    assert started == [played[1].game_id, played[3].game_id]
    assert [v for _, v in decide_games([played[0]], settings, tmp_path, journal_folder=tmp_path)] == [IDENTICAL]
