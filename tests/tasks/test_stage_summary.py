"""The page of one stage says what was made, from what, what was lost on the way, and which command comes next."""

from datetime import UTC, datetime, timedelta
from typing import Any

from storage.artifact import Artifact
from tasks.stage_summary import describe_artifacts, describe_published
from tests.homes import put

BEFORE, AFTER = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)


def test_counts_and_losses_of_a_stage_are_told(tmp_path):
    pairs = put(tmp_path, "preferences", {}, settings={"domain": "desk"}, counts={"pairs": 1200, "rejected_rows": 3})
    text = describe_artifacts([pairs], BEFORE)
    assert text.startswith(f"# preferences: desk\n\n`{pairs.fingerprint}`, made now")
    assert "| pairs | 1,200 |" in text and "| rejected rows | 3 |" in text
    assert "- 3 source rows rejected (srpo ask rejected_rows_by_reason)" in text


def test_what_was_there_before_the_flow_began_is_not_called_made(tmp_path):
    pairs = put(tmp_path, "preferences", {})
    text = describe_artifacts([pairs], AFTER)
    assert f"complete already, made {pairs.manifest['created_at'][:16]}" in text and "made now" not in text


def test_the_next_command_names_the_artifact_and_its_parents(tmp_path):
    def made(stage: str, **parents: Artifact) -> Artifact:
        return put(tmp_path, stage, {}, parents=parents, info={"name": stage})

    policy, pairs = made("policies"), made("preferences")
    rows = made("reference", reference=policy, preferences=pairs)
    text = describe_artifacts([rows], BEFORE)
    ids = f"--policy {policy.fingerprint} --preferences {pairs.fingerprint} --reference {rows.fingerprint}"
    assert f"Next: `srpo train {ids} --home {tmp_path}`" in text
    assert f"- reference: `policies/{policy.fingerprint}`" in text and f"- preferences: `preferences/{pairs.fingerprint}`" in text
    assert "Next:" not in describe_artifacts([made("reference")], BEFORE), "an artifact whose parents have other roles"


def test_what_a_judges_address_was_paid_is_told(tmp_path):
    spent = {"requests": 12, "tokens": 34567, "cost": 0.125}
    games = put(
        tmp_path, "games", {}, info={"judge": "gpt", "spent": spent}, parents={"completions": put(tmp_path, "completions", {})}
    )
    assert "It took 12 requests and 34,567 tokens, 0.125 in money." in describe_artifacts([games], BEFORE)


def test_a_merge_of_many_files_names_the_first_and_counts_the_rest(tmp_path):
    sources: dict[str, Any] = {f"source-{n:05d}": put(tmp_path, "sources", {}, settings={"n": n}) for n in range(25)}
    text = describe_artifacts([put(tmp_path, "preferences", {}, parents=sources)], BEFORE)
    assert text.count("`sources/") == 10 and "- and 15 more" in text


def test_the_published_files_are_named(tmp_path):
    text = describe_published(tmp_path / "results.duckdb", tmp_path / "report.html")
    assert f"`{tmp_path}/results.duckdb`" in text and f"`{tmp_path}/report.html`" in text
    assert f"`srpo ask win_rates --home {tmp_path}`" in text
