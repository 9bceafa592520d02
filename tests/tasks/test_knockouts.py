"""Knock-outs by a judge behind an address: the better draft wins, nothing is asked twice, a missing verdict is no defeat."""

from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import WorkFailed
from srpo_core.scoring.knockout import Bracket, list_brackets
from srpo_core.settings.judges import ApiJudgeSettings, BudgetSettings
from storage.artifact import Artifact, list_artifacts
from storage.lookup import find_record
from storage.schemas import COMPLETIONS, GAMES, KNOCKOUT_MATCHES
from tasks.knockouts import play_knockouts, read_winners
from tasks.publishing import publish_results
from tests.judge_server import JudgeServer
from tests.tasks.judged_texts import completion_row, source_text, write_artifact, write_prompts

WORDS = [3, 7, 1, 5, 2]  # of the source, by draft: the server prefers more
PROMPTS = 3


def texts(home: Path, lengths: list[int] = WORDS) -> tuple[Artifact, Artifact]:
    """Drafts that hold so many words of their source, and the prompts."""
    prompts = write_prompts(home, PROMPTS)
    rows: list[dict[str, Any]] = []
    for prompt in prompts.rows():
        number = int(prompt["prompt"][0]["content"].split()[0].removeprefix("document"))
        for sample, length in enumerate(lengths):
            text = " ".join(source_text(number).split()[:length])
            rows.append(completion_row(prompt["prompt_id"], f"policy{sample}", 0, text) | {"sample_index": sample})
    return write_artifact(home, "completions", rows, COMPLETIONS), prompts


def api(url: str, **changes: Any) -> ApiJudgeSettings:
    return ApiJudgeSettings(**({"model": "test-judge", "base_url": url, "timeout_seconds": 5, "max_attempts": 1} | changes))


def questions(server: JudgeServer) -> list[str]:
    return [body["messages"][-1]["content"] for body in server.requests]


def test_the_draft_that_covers_most_wins_every_bracket(tmp_path: Path) -> None:
    drafts, prompts = texts(tmp_path)
    with JudgeServer() as server:
        artifact = play_knockouts(drafts, prompts, api(server.url), tmp_path, seed=0)
    expected = {
        bracket: max(range(bracket.start, bracket.start + bracket.size), key=WORDS.__getitem__)
        for bracket in list_brackets(len(WORDS))
        if bracket.size > 1
    }
    assert all(winners == expected for _, winners in read_winners(artifact)) and len(dict(read_winners(artifact))) == PROMPTS
    matches = artifact.read(KNOCKOUT_MATCHES).to_pylist()
    assert {(row["score"], row["decided_by"]) for row in matches} == {(1.0, "judge"), (0.0, "judge")}


def test_a_question_that_two_brackets_share_is_asked_once(tmp_path: Path) -> None:
    """Of drafts 0 to 2 and 0 to 3 draft 1 meets draft 2 if that one beat draft 3: one pairing, two questions."""
    drafts, prompts = texts(tmp_path, [1, 7, 5, 3])
    with JudgeServer() as server:
        artifact = play_knockouts(drafts, prompts, api(server.url), tmp_path, seed=0)
        asked = questions(server)
    assert len(asked) == len(set(asked)) == artifact.counts["games"] == 2 * 3 * PROMPTS
    assert artifact.counts["matches"] == 4 * PROMPTS
    games = artifact.read(GAMES, prefix="games").to_pylist()
    assert len({row["game_id"] for row in games}) == len(games) == 2 * 3 * PROMPTS


def test_a_run_that_ends_early_goes_on_without_asking_again(tmp_path: Path) -> None:
    drafts, prompts = texts(tmp_path)
    with JudgeServer() as server:
        with pytest.raises(WorkFailed, match="budget"):
            play_knockouts(drafts, prompts, api(server.url, budget=BudgetSettings(max_requests=13)), tmp_path, seed=0)
        assert not list_artifacts(tmp_path, "knockouts"), "nothing half-played is complete"
        first = len(server.requests)
        artifact = play_knockouts(drafts, prompts, api(server.url), tmp_path, seed=0)
        asked = questions(server)
        assert 0 < first <= 13 and len(asked) == len(set(asked)) == artifact.counts["games"]
        assert play_knockouts(drafts, prompts, api(server.url), tmp_path, seed=0) == artifact
        assert len(server.requests) == len(asked)
    assert not list(artifact.path.glob("journals/**/*")), "what the run kept on the way is gone"


def test_a_missing_verdict_leaves_the_match_to_the_coin_and_is_counted(tmp_path: Path) -> None:
    """One order of every match has an empty reply: the other order alone could be the judge's liking for the first place."""
    drafts, prompts = texts(tmp_path, [4, 2])
    with JudgeServer(lambda number, body: "empty" if number % 2 else None) as server:
        artifact = play_knockouts(drafts, prompts, api(server.url, max_concurrency=1), tmp_path, seed=0)
    assert artifact.counts["games_unscored"] == artifact.counts["decided_by_coin"] == PROMPTS
    rows = artifact.read(KNOCKOUT_MATCHES).to_pylist()
    assert all((row["score"], row["decided_by"]) == (None, "coin") for row in rows)
    assert {row["size"] for row in rows} == {2} and {Bracket(0, 2)} == {b for _, w in read_winners(artifact) for b in w}


def test_identical_drafts_are_no_question(tmp_path: Path) -> None:
    drafts, prompts = texts(tmp_path, [4, 4, 4])
    with JudgeServer() as server:
        artifact = play_knockouts(drafts, prompts, api(server.url), tmp_path, seed=0)
        assert not server.requests
    assert artifact.counts == {"matches": 2 * PROMPTS, "games": 0, "decided_by_coin": 2 * PROMPTS, "games_unscored": 0}


def test_the_manifest_tells_what_the_server_honours_and_what_all_rounds_took(tmp_path: Path) -> None:
    drafts, prompts = texts(tmp_path)
    with JudgeServer(schema="refuse") as server:
        artifact = play_knockouts(drafts, prompts, api(server.url), tmp_path, seed=0)
        assert artifact.info["spent"]["requests"] == len(server.requests) + len(server.probes)
    assert artifact.info["capabilities"]["json_schema"] == "refused"
    assert artifact.info["requests_answered"] == artifact.counts["games"] and max(WORDS) > 2, "more than one round"


def test_a_knock_out_game_can_be_shown_with_its_drafts_and_the_reply(tmp_path: Path) -> None:
    drafts, prompts = texts(tmp_path)
    with JudgeServer() as server:
        artifact = play_knockouts(drafts, prompts, api(server.url), tmp_path, seed=0)
    publish_results(tmp_path)
    game = artifact.read(GAMES, prefix="games").to_pylist()[0]
    record = find_record(tmp_path, game["game_id"])
    assert (record.kind, record.values["score"], record.lineage[0]["stage"]) == ("game", game["score"], "knockouts")
    assert {row["completion_id"] for row in record.values["drafts"]} == {game["candidate"], game["opponent"]}
    assert record.values["reply"]["request_hash"] == game["request_hash"]
