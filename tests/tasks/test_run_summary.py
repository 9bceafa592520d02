"""The summary of a run says what the database says, of this run alone, and hides no missing verdict, loss or cost."""

import base64
import math
import re
import xml.dom.minidom
from typing import Any

import pytest

from storage.artifact import Artifact, list_artifacts
from storage.errors import UnusableInput
from storage.results_db import run_query
from storage.runs import record_run
from tasks import run_summary
from tasks.left_out import count_losses
from tasks.publishing import publish_results
from tasks.run_summary import RunSummary, summarise_run
from tests.homes import decode_again, make_home, put, put_completions, put_games, put_policy, put_preferences, put_prompts

LONG_AGO = "2020-01-01T00:00:00+00:00"
IN_THE_FUTURE = "2120-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A published home with two runs: `all` used everything, `srpo` the policy srpo alone."""
    folder = make_home(tmp_path_factory.mktemp("home"), size=15, revisions=3)
    everything = [*list_artifacts(folder, "policies"), *list_artifacts(folder, "games")]
    record(folder, "all", everything)
    record(folder, "srpo", [one for one in everything if one.stage == "policies" and one.info["name"] == "srpo"])
    publish_results(folder)
    return folder


def record(home, run_id: str, artifacts: list[Artifact], **facts: Any) -> None:
    record_run(home, run_id, state="completed", settings={"name": run_id}, artifacts=artifacts, prefect_run=None, **facts)


def published(home, artifacts: list[Artifact], **facts: Any) -> RunSummary:
    record(home, "tried", artifacts, **facts)
    publish_results(home)
    return summarise_run(home, "tried")


def answer_rates_with(rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the database give these win rates."""

    class Answer:
        def to_pylist(self):
            return rows

    query = run_summary.run_query
    monkeypatch.setattr(run_summary, "run_query", lambda home, sql: Answer() if "ci_low" in sql else query(home, sql))


def lines_of(text: str, start: str) -> list[list[str]]:
    """The cells of each table line that begins so."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith(start)]


def test_the_table_has_a_line_a_curve_and_a_column_a_revision(home):
    text = summarise_run(home, "all").markdown
    assert "| policy | set | OOD | draft | rev. 1 | rev. 2 | rev. 3 | n |" in text
    assert sum(line.startswith(f"| {name} ") for name in ("sft", "srpo", "dpo") for line in text.splitlines()) == 3 * 2
    (row,) = run_query(
        home,
        "SELECT win_rate, ci_low, ci_high FROM win_rates WHERE method = 'srpo' AND eval_set = 'long' AND revision_index = 3",
    ).to_pylist()
    (cells,) = lines_of(text, "| srpo | long | yes")
    rate, low, high = (100 * row[name] for name in ("win_rate", "ci_low", "ci_high"))
    assert cells[-2:] == [f"{rate:.1f} [{low:.0f},{high:.0f}]", "14"]  # prompt 0 has a score in one order only


def test_verdicts_without_a_score_are_counted_with_their_reason(home):
    """3 policies x 2 sets x 15 prompts x 4 texts x 2 orders; of each text of prompt 0 one order has no score."""
    text = summarise_run(home, "all").markdown
    assert "720 games, 696 scored, 24 unscored; " in text and "24 × no label in the reply" in text
    counts = [int(found) for found in re.findall(r"(\d+) × (?:win|tie|loss)", text)]
    assert sum(counts) == 696


def test_what_was_left_out_or_cut_short_is_told_once(tmp_path):
    """Rejected rows count in preferences and not again in sources, pairs too long in reference rows and not again in policies."""
    counted = {
        "sources": "rejected_rows",
        "preferences": "rejected_rows",
        "reference": "pairs_too_long",
        "policies": "pairs_too_long",
    }
    artifacts = [put(tmp_path, stage, {}, info={"name": "n"}, counts={name: 7}) for stage, name in counted.items()]
    text = published(tmp_path, artifacts).markdown
    section = text.split("## Left out or cut short")[1].split("##")[0]
    assert re.findall(r"- (\d+) (.*)", section) == [
        ("7", "source rows rejected (srpo ask rejected_rows_by_reason)"),
        ("7", "pairs too long for the model's context, left out of training"),
    ]
    assert "## Left out or cut short\n\nNothing." in published(tmp_path, artifacts[:1]).markdown


def test_rejected_rows_of_an_evaluation_set_and_prompts_cut_for_a_local_judge_are_told_as_what_they_are(tmp_path):
    counted = {"prompts": "rejected_rows", "completions": "prompts_truncated", "games": "prompts_truncated"}
    texts = put(tmp_path, "completions", {})
    parents = {"prompts": {}, "completions": {}, "games": {"completions": texts}}
    artifacts = [
        put(tmp_path, stage, {}, info={"judge": "j"}, counts={name: number}, parents=parents[stage])
        for number, (stage, name) in enumerate(counted.items(), start=5)
    ]
    assert count_losses(artifacts) == {"rejected_rows": 5, "prompts_truncated": 6, "judge_prompts_truncated": 7}


def test_two_policies_of_one_name_have_a_line_each_under_name_and_id(tmp_path):
    """The first always wins, the second never."""
    pairs, prompts = put_preferences(tmp_path), put_prompts(tmp_path, "id", "desk", 4)
    policies = [put_policy(tmp_path, "srpo", "srpo", {"preferences": pairs}, beta=beta) for beta in (0.1, 0.3)]
    for policy, score in zip(policies, (1.0, 0.0), strict=True):
        put_games(tmp_path, put_completions(tmp_path, policy, prompts, 0), prompts, lambda *_, score=score: score)
    text = published(tmp_path, policies).markdown
    for policy, rate in zip(policies, ("100.0", "0.0"), strict=True):
        (cells,) = lines_of(text, f"| srpo@{policy.fingerprint[:8]} | id ")
        assert cells[3].split()[0] == rate


def test_another_runs_policies_in_the_same_home_are_left_out(home):
    summary = summarise_run(home, "srpo")
    assert {row["name"] for row in summary.rows} == {"srpo"}
    assert len(summary.rows) == 2 * 4
    assert "dpo" not in summary.markdown


def test_the_sql_gives_the_rows(home):
    summary = summarise_run(home, "all")
    assert run_query(home, summary.sql).to_pylist() == summary.rows


def test_the_curves_are_pictures_that_need_nothing_else(home):
    found = re.findall(r"!\[[^]]*\]\(data:image/svg\+xml;base64,([^)]*)\)", summarise_run(home, "all").markdown)
    assert len(found) == 2
    for picture in found:
        drawn = xml.dom.minidom.parseString(base64.b64decode(picture)).documentElement
        assert (drawn.namespaceURI, drawn.getAttribute("width")) == ("http://www.w3.org/2000/svg", "520")


def test_every_curve_has_its_own_caption_with_its_evaluation_set(home):
    text = summarise_run(home, "all").markdown
    assert re.findall(r"!\[win rate on (\w+) by self-revision\]", text) == ["id", "long"]
    captions = re.findall(r"base64,[^)]*\)\n\n(\w+: .* · against gold · judge \w+.*)", text)
    assert [caption.split(" ·")[0] for caption in captions] == ["id: in distribution", "long: out of distribution"]


def test_a_distribution_that_nobody_knows_is_explained_below_the_table(home, monkeypatch):
    """A reference is trained on demonstrations, which have no domain."""
    explained = "OOD is – where the domain of the set or of the texts that the policy was trained on is unknown, here for sft."
    assert "OOD is –" not in summarise_run(home, "all").markdown
    rows = run_query(home, summarise_run(home, "all").sql).to_pylist()
    found = [row | ({"is_ood": None} if row["name"] == "sft" else {}) for row in rows]
    answer_rates_with(found, monkeypatch)
    assert explained in summarise_run(home, "all").markdown


def test_the_long_list_of_places_is_folded(home):
    text = summarise_run(home, "all").markdown
    title, listed = re.search(r"<details>\n<summary>(.*)</summary>\n\n(.*)\n\n</details>", text, re.DOTALL).groups()
    assert title == f"{len(listed.splitlines())} files and folders"
    assert all(line.startswith("- ") for line in listed.splitlines()) and len(listed.splitlines()) > 10


def test_numbers_that_do_not_exist_are_dashes_in_the_text_and_null_in_the_rows(home, monkeypatch):
    """A table artifact is JSON, which has neither NaN nor infinity."""
    rows = run_query(home, summarise_run(home, "srpo").sql).to_pylist()
    spoiled = [rows[0] | {"win_rate": math.nan}, rows[1] | {"ci_low": math.inf}, rows[2] | {"win_rate": None}]

    answer_rates_with(spoiled, monkeypatch)
    summary = summarise_run(home, "srpo")
    assert (summary.rows[0]["win_rate"], summary.rows[1]["ci_low"]) == (None, None)
    (cells,) = lines_of(summary.markdown, "| srpo | id ")
    assert cells[3] == cells[5] == "–" and re.fullmatch(r"\d+\.\d", cells[4])
    assert "nan" not in summary.markdown and "inf]" not in summary.markdown


def test_a_home_without_a_database_is_refused(tmp_path):
    record(tmp_path, "tried", list_artifacts(make_home(tmp_path), "policies"))
    with pytest.raises(UnusableInput, match="srpo publish"):
        summarise_run(tmp_path, "tried")


def test_each_way_of_decoding_has_its_line(tmp_path):
    folder = decode_again(make_home(tmp_path, size=10, revisions=3))
    text = published(folder, list_artifacts(folder, "policies")).markdown
    lines = [line for line in text.splitlines() if line.startswith("| srpo | id |") and "| gold |" in line and "| rule |" in line]
    assert len(lines) == 2 and sum("| max_new_tokens=8 top_p=1.0 |" in line for line in lines) == 1


# --- cost ------------------------------------------------------------------------------------------------------------------


def timing(stage: str, seconds: float, artifacts: list[Artifact]) -> dict[str, Any]:
    return {"stage": stage, "seconds": seconds, "artifacts": [f"{one.stage}/{one.fingerprint}" for one in artifacts]}


def test_time_and_money_are_told_by_stage_and_what_was_paid_before_apart(tmp_path):
    """Two audits of 300 and 100 tokens, 0.5 and 0.25 in money, 3 and 1 requests: made by one run, found by another."""
    spent = [{"requests": 3, "tokens": 300, "cost": 0.5}, {"requests": 1, "tokens": 100, "cost": 0.25}]
    judged = [put(tmp_path, "audits", {}, settings={"n": n}, info={"spent": one}) for n, one in enumerate(spent)]
    timings = [timing("judge completions", 61.0, judged[:1]), timing("judge completions", 1.0, judged[1:])]
    made = published(tmp_path, judged, started_at=LONG_AGO, timings=timings).markdown
    assert lines_of(made, "| judge completions")[0] == ["judge completions", "2", "0", "1:02 min", "400", "4", "0.75"]
    assert lines_of(made, "| in all")[0] == ["in all", "2", "0", "1:02 min", "400", "4", "0.75"]
    assert "complete already had taken" not in made
    found = published(tmp_path, judged, started_at=IN_THE_FUTURE, timings=timings).markdown
    assert lines_of(found, "| judge completions")[0] == ["judge completions", "0", "2", "1:02 min", "–", "–", "–"]
    assert "What was complete already had taken 4 requests, 0.75 in money." in found


def test_of_two_runs_at_work_at_once_the_one_that_waited_made_and_paid_for_nothing(tmp_path):
    judged = put(tmp_path, "audits", {}, info={"spent": {"requests": 3, "tokens": 300, "cost": 0.5}})
    record(tmp_path, "began-first", [judged], started_at=LONG_AGO)
    timings = [timing("audit judges", 5.0, [judged])]
    waited = published(tmp_path, [judged], started_at="2021-01-01T00:00:00+00:00", timings=timings)
    assert lines_of(waited.markdown, "| audit judges")[0] == ["audit judges", "0", "1", "5.0 s", "–", "–", "–"]


def test_tokens_trained_on_and_written_are_those_of_the_database(home):
    rows = run_query(home, "SELECT sum(num_tokens) AS tokens FROM completions").to_pylist()
    completions = list_artifacts(home, "completions")
    text = published(home, completions, started_at=LONG_AGO, timings=[timing("generate completions", 2.0, completions)]).markdown
    (cells,) = lines_of(text, "| generate completions")
    assert cells[4] == f"{rows[0]['tokens']:,}"


def test_a_record_without_timings_invents_none(home):
    (cells, *_) = lines_of(summarise_run(home, "srpo").markdown, "| policies")
    assert cells[3] == "–"


# --- links -----------------------------------------------------------------------------------------------------------------


def test_the_run_its_flow_run_its_folders_and_sql_lead_to_each_other(tmp_path):
    page = "http://127.0.0.1:4200/v2/runs/flow-run/abc"
    folder = make_home(tmp_path, size=5)
    policies = list_artifacts(folder, "policies")
    record_run(
        folder, "tried", state="completed", settings={"name": "n"}, artifacts=policies, prefect_run="abc", prefect_page=page
    )
    publish_results(folder)
    text = summarise_run(folder, "tried").markdown
    assert f"[flow run]({page})" in text and "FROM runs WHERE run_id = 'tried'" in text
    assert all(f"`{one.path}`" in text for one in policies)
    assert f"`{folder}/runs/tried.json`" in text and f"`{folder}/results.duckdb`" in text
    (row,) = run_query(folder, "SELECT prefect_run FROM runs WHERE run_id = 'tried'").to_pylist()
    assert row["prefect_run"] == "abc"
