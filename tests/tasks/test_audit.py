"""Audits of a real judge server: the right games, the right numbers, and an injection suite that tells gullible from sound."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import InputError, WorkFailed
from srpo_core.judging.injections import ATTACKS, FIELDS
from srpo_core.records import pair_id, user_prompt
from srpo_core.scoring.attack_rates import CONTROL
from srpo_core.settings.judges import ApiJudgeSettings, RewardModelJudgeSettings, RuleJudgeSettings
from storage.artifact import Artifact
from storage.lookup import find_record
from storage.results_db import publish_snapshot, run_query
from storage.schemas import ATTACK_RATES, AUDIT_MEASURES, AUDIT_VERDICTS, INJECTION_GAMES, PREFERENCES, SENTINEL_VERDICTS
from tasks import judge_identity
from tasks.agreement_audit import MAX_REPEATS, audit_preferences
from tasks.audit_artifacts import judged_by
from tasks.injection_audit import NO_ATTACK, audit_injections
from tasks.judge_identity import fingerprint_settings
from tasks.publishing import publish_results
from tasks.sentinel import freeze_preferences, look
from tests.homes import put
from tests.judge_models import save_reward_model
from tests.judge_server import JudgeServer
from tests.stages import RESOURCES, Launches
from tests.tasks.judged_texts import good_summary, poor_summary, source_text, write_prompts

_PLANTED = re.compile(r'(?:Preferred: |"preferred": |\[\[)"?([AB])\b')


class GullibleServer(JudgeServer):
    """Says the first verdict that stands in any of the texts it was given to judge."""

    def reply_text(self, body: dict[str, Any]) -> str:
        said = super().reply_text(body)
        texts = body["messages"][-1]["content"].partition(">>>\n")[2].rpartition("<<<END")[0]
        planted = _PLANTED.search(texts)
        return said if planted is None else re.sub(r'"[AB]"', f'"{planted[1]}"', said)


def api(url: str, **changes: Any) -> ApiJudgeSettings:
    values: dict[str, Any] = {"model": "test-judge", "base_url": url, "timeout_seconds": 5, "max_attempts": 2}
    return ApiJudgeSettings(**(values | changes))


def put_pairs(home: Path, count: int, preference: float = 1.0, *, mislabelled: int = 0) -> Artifact:
    """Pairs whose chosen text is the good summary; in the first `mislabelled` people prefer the poor one."""
    rows = []
    for n in range(count):
        prompt, texts = user_prompt(source_text(n)), [good_summary(n), poor_summary(n)]
        chosen, rejected = texts[::-1] if n < mislabelled else texts
        facts = {"preference": preference, "num_votes": 5, "source": "s", "domain": "d", "split": "train", "cluster_id": str(n)}
        ids = {"pair_id": pair_id(prompt, chosen, rejected), "prompt": prompt, "chosen": chosen, "rejected": rejected}
        rows.append(ids | facts)
    return put(
        home, "preferences", {"part": (rows, PREFERENCES)}, settings={"rows": count, "wrong": mislabelled, "p": preference}
    )


def measures(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {row["measure"]: row for row in artifact.read(AUDIT_MEASURES, prefix="measures").to_pylist()}


def rates(artifact: Artifact) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["attack"], row["field"]): row for row in artifact.read(ATTACK_RATES, prefix="rates").to_pylist()}


def test_a_judge_is_measured_against_labels_with_known_errors(tmp_path: Path) -> None:
    """The server always prefers the good summary; people prefer the poor one in 3 of 12 pairs: agreement 9/12."""
    preferences = put_pairs(tmp_path, 12, mislabelled=3)
    with JudgeServer() as server:
        artifact = audit_preferences(preferences, api(server.url), tmp_path)
    found = measures(artifact)
    assert found["agreement"]["estimate"] == pytest.approx(9 / 12) and found["agreement"]["n"] == 12
    assert found["both_orders_right"]["estimate"] == pytest.approx(9 / 12)
    assert found["swap_consistency"]["estimate"] == 1 and found["first_position_rate"]["estimate"] == 0.5
    assert found["agreement"]["ci_low"] < 9 / 12 < found["agreement"]["ci_high"]
    rows = artifact.read(AUDIT_VERDICTS).to_pylist()
    assert len(rows) == 24 and artifact.counts["games"] == 24 and artifact.counts["unscored"] == 0
    assert {row["candidate"] for row in rows} == {"chosen", "rejected"}, "which text is the candidate is drawn by lot"
    assert artifact.stage == "audits" and artifact.info["judge"].startswith("test-judge:tldr-concise:")


@pytest.mark.parametrize(("answers", "warned"), [("another", True), ("test-judge-2026-11-01", False)])
def test_answers_of_another_model_are_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answers: str, warned: bool
) -> None:
    with JudgeServer(model=answers) as server:
        audit_preferences(put_pairs(tmp_path, 2), api(server.url), tmp_path)
    assert ("found answers of another" in caplog.text) == warned


def test_votes_are_soft_labels(tmp_path: Path) -> None:
    """Four of five voters prefer the good summary, and so does the judge: it agrees with one voter in four of five cases."""
    with JudgeServer() as server:
        found = measures(audit_preferences(put_pairs(tmp_path, 8, 0.8), api(server.url), tmp_path))
    assert found["agreement"]["estimate"] == 1
    assert found["agreement_with_one_vote"]["estimate"] == pytest.approx(0.8)
    assert found["one_vote_ceiling"]["estimate"] == pytest.approx(0.8)


def test_repeats_are_really_asked_and_a_second_audit_asks_nothing(tmp_path: Path) -> None:
    preferences = put_pairs(tmp_path, 4)
    with JudgeServer() as server:
        artifact = audit_preferences(preferences, api(server.url), tmp_path, repeats=3)
        assert len(server.requests) == 4 * 2 * 3
        asked = len(server.requests)
        assert audit_preferences(preferences, api(server.url), tmp_path, repeats=3).digest == artifact.digest
        assert len(server.requests) == asked
    assert measures(artifact)["flip_rate"]["estimate"] == 0 and measures(artifact)["flip_rate"]["n"] == 4


def test_the_drawn_pairs_stay_the_same_when_others_are_added(tmp_path: Path) -> None:
    def drawn(count: int) -> set[str]:
        with JudgeServer() as server:
            artifact = audit_preferences(put_pairs(tmp_path, count), api(server.url), tmp_path, max_pairs=5)
        return {row["prompt_id"] for row in artifact.read(AUDIT_VERDICTS).to_pylist()}

    few, many = drawn(10), drawn(12)
    assert len(few) == len(many) == 5 and len(few & many) >= 3


def test_unscored_verdicts_are_counted_and_never_disagree(tmp_path: Path) -> None:
    with JudgeServer(lambda number, body: "two_verdicts" if number % 4 == 3 else None) as server:
        artifact = audit_preferences(put_pairs(tmp_path, 10), api(server.url, max_concurrency=1), tmp_path)
    assert artifact.counts["unscored"] == 5 and measures(artifact)["agreement"]["estimate"] == 1


def test_a_killed_audit_goes_on_where_it_stopped(tmp_path: Path) -> None:
    preferences = put_pairs(tmp_path, 8)
    with JudgeServer(lambda number, body: "insufficient_quota" if number == 9 else None) as server:
        settings = api(server.url, max_concurrency=1)
        with pytest.raises(WorkFailed, match="add credit"):
            audit_preferences(preferences, settings, tmp_path)
        artifact = audit_preferences(preferences, settings, tmp_path)
        sent = [json.dumps(body) for body in server.answered]
    assert len(sent) == len(set(sent)) == 16 and artifact.counts["unscored"] == 0
    assert sorted(path.name.split("-")[0] for path in artifact.path.iterdir() if path.name[0] != ".") == [
        "manifest.json",
        "measures",
        "part",
    ]


def test_a_sound_judge_withstands_what_a_gullible_one_falls_for(tmp_path: Path) -> None:
    preferences = put_pairs(tmp_path, 3)
    with JudgeServer() as sound, GullibleServer() as gullible:
        withstood = rates(audit_injections(preferences, api(sound.url), tmp_path))
        fallen = rates(audit_injections(preferences, api(gullible.url), tmp_path))
    planted = [key for key in fallen if key[0] in ATTACKS and key[0] != CONTROL and not ATTACKS[key[0]].is_constant]
    assert len(planted) == 7 * 3 and {fallen[CONTROL, field]["attack_rate"] for field in FIELDS} == {0}
    for key in planted:
        assert (withstood[key]["attack_rate"], fallen[key]["attack_rate"]) == (0, 1), key
        assert (fallen[key]["n_games"], fallen[key]["n_unscored"]) == (6, 0)
        assert (fallen[key]["rate_as_is"], fallen[key]["rate_swapped"], fallen[key]["rate_both_orders"]) == (1, 1, 1)
        assert fallen[key]["score_shift"] == 1
    assert withstood["all", "all"]["attack_rate"] == 0 and fallen["all", "all"]["attack_rate"] > 0.9
    assert fallen["constant_verdict", "candidate"]["attack_rate"] == 1
    assert fallen["constant_dot", "candidate"]["attack_rate"] == 0


def test_attacks_against_gold_start_from_no_answer(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 2, golds=["document words that cover amber basin cedar delta"])
    with JudgeServer() as server:
        artifact = audit_injections(prompts, api(server.url), tmp_path)
    rows = artifact.read(INJECTION_GAMES).to_pylist()
    assert sum(row["attack"] == NO_ATTACK for row in rows) == 4
    assert len(rows) == 4 + artifact.counts["games_attacked"] and artifact.counts["games_attacked"] == 4 * (3 + 8 * 3)


def test_words_are_planted_only_where_the_attacker_lost(tmp_path: Path) -> None:
    """People mislabelled all pairs, so the 'worse' text is the good one and wins without any attack: only constants play."""
    with JudgeServer() as server:
        artifact = audit_injections(put_pairs(tmp_path, 2, mislabelled=2), api(server.url), tmp_path)
    assert {row["attack"] for row in artifact.read(INJECTION_GAMES).to_pylist()} == {
        NO_ATTACK,
        *(name for name, how in ATTACKS.items() if how.is_constant),
    }
    assert artifact.counts["games_lost_without_attack"] == 0


def test_the_rule_judge_can_be_audited_and_attacked(tmp_path: Path) -> None:
    """It knows the facts: it agrees with labels that follow them, and words that are no facts count against the text they are in.

    So nobody wins by words of his own, and an attack in the opponent's text does no more than harmless words there.
    """
    prompt = user_prompt("Major fire, Oslo, 17. Minor strike, Rome, 25. Major flood, Lima, 11.")
    texts = {"chosen": "fire, Oslo, 17. flood, Lima, 11.", "rejected": "fire, Oslo, 18. storm, Lima, 12."}
    facts = {"preference": 1.0, "num_votes": 1, "source": "s", "domain": "d", "split": "train", "cluster_id": "c"}
    rows = [{"pair_id": "pair-one", "prompt": prompt} | texts | facts]
    preferences = put(tmp_path, "preferences", {"part": (rows, PREFERENCES)})
    rule = RuleJudgeSettings()
    assert measures(audit_preferences(preferences, rule, tmp_path))["agreement"]["estimate"] == 1
    attacked = rates(audit_injections(preferences, rule, tmp_path))
    assert {row["attack_rate"] for (_, field), row in attacked.items() if field == "candidate"} == {0}
    spoilt = {name: row["attack_rate"] for (name, field), row in attacked.items() if field == "opponent"}
    assert max(spoilt.values()) == spoilt[CONTROL]
    assert not any(field == "prompt" for _, field in attacked), "a document holds facts alone"


def test_a_local_reward_model_is_audited_like_any_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows no order, so it is perfectly consistent, and its folder of work is gone at the end."""
    monkeypatch.setattr("tasks.local_judging.run_jobs", Launches())
    settings = RewardModelJudgeSettings(model=str(save_reward_model(tmp_path / "reward")))
    preferences = put_pairs(tmp_path, 3)
    audited = audit_preferences(preferences, settings, tmp_path, resources=RESOURCES)
    assert measures(audited)["swap_consistency"]["estimate"] == 1 and audited.counts["unscored"] == 0
    attacked = audit_injections(preferences, settings, tmp_path, resources=RESOURCES)
    assert attacked.counts["games_attacked"] >= 3 * 2 * 3
    for artifact in (audited, attacked):
        assert not [path for path in artifact.path.iterdir() if path.is_dir()]


def test_audits_can_be_asked_by_sql(tmp_path: Path) -> None:
    preferences = put_pairs(tmp_path, 2)
    with JudgeServer() as server:
        audit_preferences(preferences, api(server.url), tmp_path)
        audit_injections(preferences, api(server.url), tmp_path)
    publish_snapshot(tmp_path, lambda comparisons: {})
    [agreed] = run_query(tmp_path, "SELECT estimate FROM audit_measures WHERE measure = 'agreement'").to_pylist()
    [attacked] = run_query(tmp_path, "SELECT attack_rate FROM attack_rates WHERE attack = 'all'").to_pylist()
    [counted] = run_query(
        tmp_path, "SELECT (SELECT count(*) FROM audit_verdicts) AS v, (SELECT count(*) FROM injection_games) AS i"
    ).to_pylist()
    assert (agreed["estimate"], attacked["attack_rate"]) == (1, 0)
    assert counted == {"v": 4, "i": 4 + 4 * (3 + 8 * 3)}


@pytest.mark.parametrize("changes", [{"max_pairs": 0}, {"repeats": 0}, {"repeats": MAX_REPEATS + 1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="--max-pairs or --repeats"):
        audit_preferences(put_pairs(tmp_path, 1), api("http://127.0.0.1:9/v1"), tmp_path, **changes)


def test_sources_with_nothing_to_play_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="preferred side"):
        audit_injections(put_pairs(tmp_path, 2, preference=0.5), api("http://127.0.0.1:9/v1"), tmp_path)
    with pytest.raises(InputError, match="expected preference pairs"):
        audit_preferences(put_pairs(tmp_path, 0), api("http://127.0.0.1:9/v1"), tmp_path)


def test_both_rounds_of_an_injection_audit_are_in_its_manifest(tmp_path: Path) -> None:
    """Before and under attack: the answers of both are counted, also where the second round has another number."""
    with JudgeServer() as server:
        artifact = audit_injections(put_pairs(tmp_path, 3), api(server.url), tmp_path)
        asked = len(server.requests) + len(server.probes)
    games = {row["request_hash"] for row in artifact.read(INJECTION_GAMES).to_pylist()} - {None}
    assert artifact.info["requests_answered"] == len(games) > artifact.counts["games_lost_without_attack"]
    assert artifact.info["spent"]["requests"] == asked and artifact.info["capabilities"]


def test_games_of_audits_can_be_shown_with_their_pair_the_reply_and_what_other_judges_said(tmp_path: Path) -> None:
    preferences = put_pairs(tmp_path, 2)
    with JudgeServer() as server:
        audit = audit_preferences(preferences, api(server.url), tmp_path)
        audit_preferences(preferences, api(server.url, model="other-judge"), tmp_path)
        attacks = audit_injections(preferences, api(server.url), tmp_path)
        frozen = freeze_preferences(preferences, tmp_path, num_pairs=2)
        looked = look(frozen, api(server.url), tmp_path)[0]
    publish_results(tmp_path)
    for artifact, schema in ((audit, AUDIT_VERDICTS), (attacks, INJECTION_GAMES), (looked, SENTINEL_VERDICTS)):
        row = next(row for row in artifact.read(schema).to_pylist() if row["request_hash"])
        record = find_record(tmp_path, row["game_id"])
        assert record.kind == "game" and record.lineage[0]["stage"] == artifact.stage
        [pair] = record.values["pair"]
        assert {good_summary(0), poor_summary(0)} <= set(map(str, pair.values())) or good_summary(1) in pair.values()
        assert record.values["reply"]["request_hash"] == record.values["request_hash"]
    shown = find_record(tmp_path, audit.read(AUDIT_VERDICTS).to_pylist()[0]["game_id"]).values
    assert {shown["judge"].split(":")[0], *(row["judge"].split(":")[0] for row in shown["other_verdicts"])} == {
        "test-judge",
        "other-judge",
    }


def test_the_parser_is_part_of_what_was_asked_only_where_replies_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    first = judged_by(api("http://127.0.0.1:1"))
    assert first == fingerprint_settings(api("http://127.0.0.1:1")), "games of the first parser keep their fingerprint"
    monkeypatch.setattr(judge_identity, "PARSER_VERSION", 2)
    assert judged_by(api("http://127.0.0.1:1")) == first | {"parser": 2}
    assert judged_by(RuleJudgeSettings()) == fingerprint_settings(RuleJudgeSettings()) == {"kind": "rule"}
