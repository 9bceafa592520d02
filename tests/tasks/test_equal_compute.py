"""Equal compute end to end on a tiny policy and the newsroom's rule judge: numbers against naive ones, nothing done twice."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srpo_core import newsroom
from srpo_core.errors import InputError
from srpo_core.records import Completion, user_prompt
from srpo_core.scoring.knockout import Bracket
from srpo_core.settings.judges import RewardModelJudgeSettings, RuleJudgeSettings
from srpo_core.settings.model import GenerationSettings
from srpo_core.settings.pipeline import EqualComputeSettings
from srpo_core.workers import generate
from storage.artifact import Artifact, list_artifacts
from storage.results_db import run_query
from storage.schemas import COMPLETIONS, LIKELIHOODS, PROMPTS, REWARDS
from storage.stored_queries import ask_query
from tasks import equal_compute as stage
from tasks.equal_compute import compare_equal_compute, read_tables
from tasks.knockouts import play_knockouts, read_winners
from tasks.models import adopt_reference, prepare_base_model
from tasks.publishing import publish_results
from tests.homes import put
from tests.judge_models import save_reward_model
from tests.small_training import TEMPLATE, save_policy
from tests.stages import RESOURCES, Launches, launches_here, model_settings

RULE = RuleJudgeSettings()
DECODING = GenerationSettings(num_revisions=2, temperature=1.0, max_new_tokens=8)
ASKED = EqualComputeSettings(num_samples=6)


_rng = np.random.default_rng(0)
DOCUMENTS = {newsroom.write_document(d): d for d in (newsroom.draw_document(newsroom.DOMAINS["id"], _rng) for _ in range(6))}


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Jobs run here, and what the policy writes is put in the place of its nonsense: summaries of all qualities."""
    launches = launches_here(monkeypatch)
    monkeypatch.setattr("tasks.likelihoods.run_jobs", launches)
    written = generate.write_chains

    def summarise(model: Any, tok: Any, prompts: list[dict[str, Any]], *rest: Any, **options: Any) -> Iterator[list[Completion]]:
        documents = {row["prompt_id"]: DOCUMENTS[row["prompt"][-1]["content"]] for row in prompts}
        for completions in written(model, tok, prompts, *rest, **options):
            yield [_summary(documents[one.prompt_id], one) for one in completions]

    monkeypatch.setattr(generate, "write_chains", summarise)
    return launches


def _summary(document: newsroom.Document, completion: Completion) -> Completion:
    plan = newsroom.draft_plan(document, newsroom.REFERENCE_WRITER, np.random.default_rng(completion.seed))
    text = newsroom.write_summary(plan)
    return replace(completion, text=text, num_tokens=len(text.split()), finish_reason="stop")


class Setting:
    """A policy and documents of the newsroom."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path / "home"
        self.model = model_settings(save_policy(tmp_path / "model")).model_copy(update={"max_length": 400})
        base = prepare_base_model(self.model, self.home, None)
        self.policy = adopt_reference(base, model=self.model, template=TEMPLATE, decoding=DECODING, home=self.home)
        rng = np.random.default_rng(1)
        golds = [newsroom.write_summary(newsroom.draft_plan(d, newsroom.GOLD_WRITER, rng)) for d in DOCUMENTS.values()]
        rows = [
            {"prompt_id": f"p{i}", "prompt": user_prompt(text), "gold": [gold], "eval_set": "id"}
            | {"domain": "newsroom-id", "cluster_id": str(i)}
            for i, (text, gold) in enumerate(zip(DOCUMENTS, golds, strict=True))
        ]
        self.prompts = put(self.home, "prompts", {"part": (rows, PROMPTS)}, settings={"name": "id"})

    def compare(self, settings: EqualComputeSettings = ASKED, decoding: GenerationSettings = DECODING) -> Artifact:
        spread: dict[str, Any] = {"model": self.model, "resources": RESOURCES, "home": self.home}
        return compare_equal_compute(self.policy, [self.prompts], settings, decoding, RULE, **spread)[0]

    def parent(self, artifact: Artifact, role: str) -> Artifact:
        named = artifact.manifest["parents"][role]
        return next(a for a in list_artifacts(self.home, named["stage"]) if a.fingerprint == named["fingerprint"])


def texts_of(artifact: Artifact) -> dict[str, list[dict[str, Any]]]:
    rows = artifact.read(COMPLETIONS).to_pylist()
    rows.sort(key=lambda row: (row["sample_index"], row["revision_index"]))
    return {prompt: [row for row in rows if row["prompt_id"] == prompt] for prompt in {row["prompt_id"] for row in rows}}


def naive_curves(setting: Setting, artifact: Artifact) -> dict[tuple[str, int], tuple[float, float]]:
    """(selector or revisions, n or k) -> mean tokens and win rate, from the texts alone, by every subset of the drafts."""
    drafts, chains = (texts_of(setting.parent(artifact, role)) for role in ("drafts", "chains"))
    logps = {row["completion_id"]: row for row in setting.parent(artifact, "likelihood").read(LIKELIHOODS).to_pylist()}
    points: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for prompt in setting.prompts.rows():
        document, gold = prompt["prompt"][-1]["content"], prompt["gold"][0]
        own, chain = drafts[prompt["prompt_id"]], chains[prompt["prompt_id"]]

        def score(row: dict[str, Any], document: str = document, gold: str = gold) -> float:
            same = row["text"].strip() == gold.strip()
            return 0.5 if same else newsroom.preference_probability(document, row["text"], gold)

        for k in range(len(chain)):
            points.setdefault(("revisions", k), []).append((sum(r["num_tokens"] for r in chain[: k + 1]), score(chain[k])))
        values = {
            "likelihood_sum": [logps[r["completion_id"]]["logp"] for r in own],
            "likelihood_mean": [logps[r["completion_id"]]["logp"] / logps[r["completion_id"]]["num_tokens"] for r in own],
            "oracle": [score(r) for r in own],
        }
        for name, keys in values.items():
            for n in range(1, len(own) + 1):
                picks = []
                for subset in itertools.combinations(range(len(own)), n):
                    highest = max(keys[i] for i in subset)
                    picks.append(np.mean([score(own[i]) for i in subset if keys[i] == highest]))
                points.setdefault((name, n), []).append((n * np.mean([r["num_tokens"] for r in own]), float(np.mean(picks))))
    return {key: tuple(np.mean(found, axis=0).tolist()) for key, found in points.items()}  # type: ignore[misc]


def test_the_curve_is_what_every_subset_of_drafts_and_every_chain_gives(tmp_path: Path, launches: Launches) -> None:
    setting = Setting(tmp_path)
    artifact = setting.compare()
    curve, matches = read_tables(artifact)
    found = {
        (row["selector"] or "revisions", row["num_drafts"] if row["selector"] else row["num_revisions"]): row for row in curve
    }
    expected = naive_curves(setting, artifact)
    assert set(found) == set(expected) | {("judge", n) for n in range(1, 7)}
    for key, (tokens, rate) in expected.items():
        assert (found[key]["mean_tokens"], found[key]["win_rate"]) == pytest.approx((tokens, rate)), key
    assert all(row["n_prompts"] == row["n_scored"] == 6 and row["ci_low"] <= row["win_rate"] <= row["ci_high"] for row in curve)
    for row in matches:
        wanted = found["revisions", row["num_revisions"]]["mean_tokens"] / found["oracle", 1]["mean_tokens"]
        assert row["num_drafts"] == pytest.approx(max(wanted, 1))
        rates = [found[row["selector"], n]["win_rate"] for n in range(1, 7)]
        assert row["drafts_win_rate"] == pytest.approx(np.interp(wanted, range(1, 7), rates))
        difference = found["revisions", row["num_revisions"]]["win_rate"] - row["drafts_win_rate"]
        assert row["difference"] == pytest.approx(difference) and row["ci_low"] <= difference <= row["ci_high"]
    assert {(row["selector"], row["num_revisions"]) for row in matches} == {
        (name, k) for name in ("likelihood_sum", "likelihood_mean", "judge", "oracle") for k in (1, 2)
    }
    assert len({round(row["win_rate"], 6) for row in curve}) > 20, "the texts differ in quality"
    upper = [row["win_rate"] for row in curve if row["selector"] == "oracle"]
    closed = [row for row in curve if row["selector"] and (row["selector"] != "judge" or row["num_drafts"] == 6)]
    assert all(row["win_rate"] <= upper[row["num_drafts"] - 1] + 1e-12 for row in closed)
    means = {row["win_rate"] for row in curve if row["selector"] and row["num_drafts"] == 1}
    assert max(means) == pytest.approx(min(means)), "one draft leaves nothing to pick"
    assert "best of n at most" in (artifact.path / "curve.svg").read_text()


def test_the_judge_picks_the_draft_that_beat_the_others_it_met(tmp_path: Path, launches: Launches) -> None:
    setting = Setting(tmp_path)
    artifact = setting.compare()
    documents = {row["prompt_id"]: row["prompt"][-1]["content"] for row in setting.prompts.rows()}
    drafts = texts_of(setting.parent(artifact, "drafts"))
    knockouts = setting.parent(artifact, "judge")
    for prompt_id, winners in read_winners(knockouts):
        own = [row["text"] for row in drafts[prompt_id]]
        all_winners = winners | {Bracket(place, 1): place for place in range(6)}
        assert len(winners) == 7
        for bracket, winner in winners.items():
            left, right = (all_winners[half] for half in bracket.halves)
            assert winner in (left, right)
            if own[left].strip() != own[right].strip():
                p = newsroom.preference_probability(documents[prompt_id], own[left], own[right])
                assert p == 0.5 or winner == (left if p > 0.5 else right)
    games = knockouts.counts["games"]
    assert 0 < games <= 2 * 7 * 6 and knockouts.counts["matches"] == 7 * 6


def test_asking_again_does_nothing_and_more_drafts_keep_the_chain(tmp_path: Path, launches: Launches) -> None:
    setting = Setting(tmp_path)
    first = setting.compare()
    assert [job.kind for job in launches.jobs] == ["generate", "generate", "likelihood"]
    launches.jobs.clear()
    assert setting.compare() == first and not launches.jobs
    more = setting.compare(ASKED.model_copy(update={"num_samples": 7}))
    assert more != first and [job.kind for job in launches.jobs] == ["generate", "likelihood"], "the chain is not written again"
    few = setting.compare(ASKED.model_copy(update={"select": ["judge"]}))
    assert {row["selector"] for row in read_tables(few)[0]} == {None, "judge", "oracle"}


def test_several_chains_of_a_prompt_are_averaged(tmp_path: Path, launches: Launches) -> None:
    setting = Setting(tmp_path)
    settings = EqualComputeSettings(num_samples=2, select=["likelihood"])
    artifact = setting.compare(settings, DECODING.model_copy(update={"num_samples": 3}))
    chains = texts_of(setting.parent(artifact, "chains"))
    golds = {row["prompt_id"]: (row["prompt"][-1]["content"], row["gold"][0]) for row in setting.prompts.rows()}
    for k in range(3):
        (found,) = (r for r in read_tables(artifact)[0] if r["strategy"] == "revisions" and r["num_revisions"] == k)
        own = [row for rows in chains.values() for row in rows if row["revision_index"] == k]
        assert len(own) == 18
        scores = []
        for row in own:
            document, gold = golds[row["prompt_id"]]
            scores.append(0.5 if row["text"] == gold else newsroom.preference_probability(document, row["text"], gold))
        assert found["win_rate"] == pytest.approx(np.mean(scores)) and found["n_scored"] == 6
        upto = [row["num_tokens"] for rows in chains.values() for row in rows if row["revision_index"] <= k]
        assert found["mean_tokens"] == pytest.approx(sum(upto) / 18)


def test_a_reward_model_picks_the_highest_reward(tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.local_judging.run_jobs", launches)
    folder = save_reward_model(tmp_path / "reward", max_position_embeddings=2048)
    asked = EqualComputeSettings(num_samples=3, select=["reward_model"], reward_model=RewardModelJudgeSettings(model=str(folder)))
    setting = Setting(tmp_path)
    artifact = setting.compare(asked)
    rewards = {row["completion_id"]: row["reward"] for row in setting.parent(artifact, "reward_model").read(REWARDS).to_pylist()}
    assert len(set(rewards.values())) > 10
    drafts = texts_of(setting.parent(artifact, "drafts"))
    scores = []
    for prompt in setting.prompts.rows():
        best = max(drafts[prompt["prompt_id"]], key=lambda row: rewards[row["completion_id"]])
        document, gold = prompt["prompt"][-1]["content"], prompt["gold"][0]
        scores.append(newsroom.preference_probability(document, best["text"], gold) if best["text"] != gold else 0.5)
    (row,) = (row for row in read_tables(artifact)[0] if row["selector"] == "reward_model" and row["num_drafts"] == 3)
    assert row["win_rate"] == pytest.approx(np.mean(scores)) and row["selected_by"].startswith("reward:reward:")
    assert row["note"] is None, "another judge scores"


def test_a_coin_of_another_seed_may_fall_otherwise_and_one_seed_always_falls_alike(tmp_path: Path, launches: Launches) -> None:
    setting = Setting(tmp_path)
    drafts = setting.parent(setting.compare(), "drafts")
    tied = [row | {"text": "the same"} for row in drafts.read(COMPLETIONS).to_pylist()]
    same = put(setting.home, "completions", {"part": (tied, COMPLETIONS)}, settings={"tied": True})
    found = [
        dict(read_winners(play_knockouts(same, setting.prompts, RULE, home, seed=seed)))
        for home, seed in ((setting.home, 0), (tmp_path / "other", 0), (setting.home, 1))
    ]
    assert found[0] == found[1] != found[2]
    starts = [winners[Bracket(0, 6)] for winners in found[0].values()]
    assert len(set(starts)) > 1, "no place is favoured"


def test_without_revisions_there_is_nothing_to_compare(tmp_path: Path, launches: Launches) -> None:
    with pytest.raises(InputError, match="expected generation.num_revisions of at least 1"):
        Setting(tmp_path).compare(decoding=DECODING.model_copy(update={"num_revisions": 0}))


def test_a_reward_model_that_is_not_there_is_said_before_anything_is_decoded(tmp_path: Path, launches: Launches) -> None:
    setting = Setting(tmp_path)
    (tmp_path / "empty").mkdir()
    rewards = RewardModelJudgeSettings(model=str(tmp_path / "empty"))
    with pytest.raises(InputError, match="empty"):
        setting.compare(EqualComputeSettings(select=["reward_model"], reward_model=rewards))
    assert list_artifacts(setting.home, "completions") == []


def test_a_killed_tabulation_is_never_taken_for_complete(
    tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "draw_equal_compute", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            setting.compare()
    assert not list_artifacts(setting.home, "equal_compute")
    launches.jobs.clear()
    assert read_tables(setting.compare())[0] and not launches.jobs, "the texts and their values were there"


def test_published_results_hold_the_tables_and_the_drafts_leave_the_revision_curve_alone(
    tmp_path: Path, launches: Launches
) -> None:
    setting = Setting(tmp_path)
    first = setting.compare()
    publish_results(setting.home)
    chain = {row["num_revisions"]: row["win_rate"] for row in read_tables(first)[0] if row["strategy"] == "revisions"}
    rates = run_query(setting.home, "SELECT revision_index, win_rate, n_scored FROM win_rates ORDER BY 1").to_pylist()
    assert {row["revision_index"]: row["win_rate"] for row in rates} == pytest.approx(chain)
    matches = read_tables(first)[1]
    asked = ask_query(setting.home, "equal_compute").to_pylist()
    assert [(r["selector"], r["num_revisions"]) for r in asked] == sorted((r["selector"], r["num_revisions"]) for r in matches)
    second = setting.compare(ASKED.model_copy(update={"num_samples": 7}))
    publish_results(setting.home)
    again = ask_query(setting.home, "equal_compute").to_pylist()
    assert len(again) == len(asked), "the newest answer counts"
    newest = {(r["selector"], r["num_revisions"]): round(r["num_drafts"], 2) for r in read_tables(second)[1]}
    assert {(r["selector"], r["num_revisions"]): r["num_drafts"] for r in again} == newest
    counts = "SELECT (SELECT count(*) FROM likelihoods) AS likelihoods, (SELECT count(*) FROM knockout_matches) AS matches"
    assert run_query(setting.home, counts).to_pylist() == [{"likelihoods": 6 * 13, "matches": 6 * (7 + 9)}]
