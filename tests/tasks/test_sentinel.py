"""The sentinel: games frozen once, every look really asked, an alarm for a judge that changed and none for one that did not."""

import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import InputError, WorkFailed
from storage.artifact import list_artifacts
from storage.results_db import publish_snapshot, run_query
from tasks.sentinel import (
    CALIBRATION_LOOKS,
    FIRST_REPEAT_INDEX,
    find_sentinel,
    freeze_preferences,
    list_looks,
    look,
    look_at_sentinel,
    read_look,
)
from tests.judge_server import JudgeServer, is_probe, overlap_label
from tests.tasks.judged_texts import write_completions, write_prompts
from tests.tasks.test_audit import api, put_pairs


class ChangingServer(JudgeServer):
    """Turns over a share of its verdicts: `noise` of them by chance, each time anew, and all of them once `changed`."""

    noise, changed = 0.0, False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: Counter[str] = Counter()

    def reply_text(self, body: dict[str, Any]) -> str:
        said, question = super().reply_text(body), body["messages"][-1]["content"]
        self.asked[question] += 1
        noise = random.Random(f"{question} {self.asked[question]}").random()
        turned = not is_probe(body) and self.changed != (noise < self.noise)
        label = overlap_label(body)
        return said.replace(f'"{label}"', '"B"' if label == "A" else '"A"') if turned else said


def test_the_first_look_calibrates_and_every_look_asks_again(tmp_path: Path) -> None:
    frozen = freeze_preferences(put_pairs(tmp_path, 12), tmp_path, num_pairs=5)
    with JudgeServer() as server:
        first = look(frozen, api(server.url), tmp_path)
        assert len(first) == CALIBRATION_LOOKS and len(server.requests) == 5 * 2 * CALIBRATION_LOOKS
        second = look(frozen, api(server.url), tmp_path)
        assert len(second) == 1 and len(server.requests) == 5 * 2 * (CALIBRATION_LOOKS + 1)
    rows = [read_look(one) for one in list_looks(frozen, api(server.url), tmp_path)]
    assert [row["look_index"] for row in rows] == list(range(CALIBRATION_LOOKS + 1))
    assert [row["is_calibration"] for row in rows] == [True] * CALIBRATION_LOOKS + [False]
    last = rows[-1]
    assert (last["n_games"], last["n_scored"], last["shift"], last["flip_rate"], last["alarm"]) == (10, 10, 0, 0, False)
    assert {row["alarm"] for row in rows[:-1]} == {None} and last["models_answered"] == "test-judge"
    assert last["system_fingerprints"] == "fp_test" and last["looked_at"].startswith("20")


def test_a_judge_that_changed_raises_the_alarm_and_one_with_noise_alone_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frozen = freeze_preferences(put_pairs(tmp_path, 14), tmp_path, num_pairs=14)
    with ChangingServer() as server:
        server.noise = 0.15
        look(frozen, api(server.url), tmp_path)
        [same] = look(frozen, api(server.url), tmp_path)
        server.changed = True
        with caplog.at_level(logging.WARNING, "srpo.judge"):
            [other] = look(frozen, api(server.url), tmp_path)
    assert read_look(same)["alarm"] is False and 0 < read_look(same)["calibration_flip_rate"] < 0.5
    assert read_look(other)["alarm"] is True and read_look(other)["flip_rate"] > 0.5
    [alarm] = [record.message for record in caplog.records if "more than its repeat noise at look 6" in record.message]
    assert "calibrate on another set (srpo audit --sentinel --preferences ID --seed 1)" in alarm


def test_looks_of_another_judge_are_calibrated_on_their_own(tmp_path: Path) -> None:
    frozen = freeze_preferences(put_pairs(tmp_path, 3), tmp_path, num_pairs=3)
    with JudgeServer() as server:
        look(frozen, api(server.url), tmp_path)
        assert len(look(frozen, api(server.url, model="other-judge"), tmp_path)) == CALIBRATION_LOOKS
        assert len(list_looks(frozen, api(server.url), tmp_path)) == CALIBRATION_LOOKS


def test_replies_to_the_same_texts_from_elsewhere_answer_no_look(tmp_path: Path) -> None:
    """An audit of the same pairs, and another frozen set of them, leave replies in the ledger."""
    from tasks.agreement_audit import audit_preferences

    preferences = put_pairs(tmp_path, 4)
    with JudgeServer() as server:
        audit_preferences(preferences, api(server.url), tmp_path, repeats=CALIBRATION_LOOKS)
        before = len(server.requests)
        look(freeze_preferences(preferences, tmp_path, num_pairs=4), api(server.url), tmp_path)
        look(freeze_preferences(preferences, tmp_path, num_pairs=4, seed=1), api(server.url), tmp_path)
        assert len(server.requests) == before + 2 * 4 * 2 * CALIBRATION_LOOKS
        sent = {json.dumps(record) for record in server.requests}
    assert len(sent) < len(server.requests) and FIRST_REPEAT_INDEX > CALIBRATION_LOOKS


def test_a_look_that_was_cut_off_is_finished_not_begun_again(tmp_path: Path) -> None:
    frozen = freeze_preferences(put_pairs(tmp_path, 4), tmp_path, num_pairs=4)
    with JudgeServer() as server:
        look(frozen, api(server.url), tmp_path)
        settings = api(server.url, max_concurrency=1)
        done = len(server.requests)
        server.script = lambda number, body: "insufficient_quota" if number == done + 7 else None
        with pytest.raises(WorkFailed):
            look(frozen, settings, tmp_path)
        asked = len(server.requests)
        [artifact] = look(frozen, settings, tmp_path)
        assert len(server.requests) == asked + 8 - 7
    assert read_look(artifact)["look_index"] == CALIBRATION_LOOKS and read_look(artifact)["n_unscored"] == 0


def test_a_lost_calibration_look_is_made_again_before_anything_is_tested(tmp_path: Path) -> None:
    import shutil

    frozen = freeze_preferences(put_pairs(tmp_path, 2), tmp_path, num_pairs=2)
    with JudgeServer() as server:
        made = look(frozen, api(server.url), tmp_path)
        shutil.rmtree(made[2].path)
        before = len(server.requests)
        assert [one.settings["look_index"] for one in look(frozen, api(server.url), tmp_path)] == [2]
        assert len(server.requests) == before + 2 * 2, "really asked, though look 4 has a later repeat index"
        assert [one.settings["look_index"] for one in look(frozen, api(server.url), tmp_path)] == [CALIBRATION_LOOKS]


def test_the_pipeline_looks_only_when_asked_and_freezes_its_games_once(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 6)
    early, late = (
        write_completions(tmp_path, [prompts], policy=name, texts=[text]) for name, text in (("p", "a b"), ("q", "c d"))
    )
    with JudgeServer() as server:
        assert look_at_sentinel([early], [prompts], api(server.url), tmp_path) == []
        settings = api(server.url, sentinel_games=8)
        assert len(look_at_sentinel([early], [prompts], settings, tmp_path)) == CALIBRATION_LOOKS
        assert len(server.requests) == 8 * CALIBRATION_LOOKS
        [again] = look_at_sentinel([late], [prompts], settings, tmp_path)
    [frozen] = list_artifacts(tmp_path, "sentinels")
    assert {row["candidate_text"] for row in frozen.rows()} == {"a b"} and frozen.counts["pairs"] == 4
    assert read_look(again)["alarm"] is False


def test_after_an_alarm_in_a_run_the_setting_it_names_freezes_another_set_and_calibrates_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = write_prompts(tmp_path, 14)
    drafts = write_completions(tmp_path, [prompts])
    with ChangingServer() as server:
        settings = api(server.url, sentinel_games=20)
        look_at_sentinel([drafts], [prompts], settings, tmp_path)
        server.changed = True
        with caplog.at_level(logging.WARNING, "srpo.judge"):
            look_at_sentinel([drafts], [prompts], settings, tmp_path)
        assert "calibrate on another set (judge.sentinel_seed=1)" in caplog.text
        other = settings.model_copy(update={"sentinel_seed": 1})
        assert len(look_at_sentinel([drafts], [prompts], other, tmp_path)) == CALIBRATION_LOOKS
        [calm] = look_at_sentinel([drafts], [prompts], other, tmp_path)
        [loud] = look_at_sentinel([drafts], [prompts], settings, tmp_path)
    assert (read_look(calm)["alarm"], read_look(loud)["alarm"]) == (False, True)
    first, second = sorted(list_artifacts(tmp_path, "sentinels"), key=lambda one: one.settings["seed"])
    assert [one.settings["seed"] for one in (first, second)] == [0, 1]
    assert {row["candidate"] for row in first.rows()} != {row["candidate"] for row in second.rows()}


def test_looks_can_be_asked_by_sql(tmp_path: Path) -> None:
    frozen = freeze_preferences(put_pairs(tmp_path, 3), tmp_path, num_pairs=3)
    with JudgeServer() as server:
        look(frozen, api(server.url), tmp_path)
        look(frozen, api(server.url), tmp_path)
    publish_snapshot(tmp_path, lambda comparisons: {})
    rows = run_query(tmp_path, "SELECT look_index, alarm FROM sentinel_looks ORDER BY look_index").to_pylist()
    assert rows[-1] == {"look_index": CALIBRATION_LOOKS, "alarm": False} and len(rows) == CALIBRATION_LOOKS + 1
    counted = run_query(tmp_path, "SELECT (SELECT count(*) FROM sentinel_verdicts) v, (SELECT count(*) FROM sentinel_games) g")
    assert counted.to_pylist() == [{"v": 6 * (CALIBRATION_LOOKS + 1), "g": 3}]


def test_which_set_is_meant_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none; freeze one"):
        find_sentinel(tmp_path)
    preferences = put_pairs(tmp_path, 2)
    frozen = freeze_preferences(preferences, tmp_path, num_pairs=2)
    assert find_sentinel(tmp_path) == freeze_preferences(preferences, tmp_path, num_pairs=2) == frozen
    freeze_preferences(preferences, tmp_path, num_pairs=1)
    with pytest.raises(InputError, match="--frozen ID"):
        find_sentinel(tmp_path)
    with pytest.raises(InputError, match="at least one pair"):
        freeze_preferences(preferences, tmp_path, num_pairs=0)
