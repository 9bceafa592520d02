"""The summary of a run says what the database says, of this run's policies alone, and hides no missing verdict."""

import pytest

from storage.artifact import Artifact, list_artifacts
from storage.errors import UnusableInput
from storage.results_db import run_query
from storage.runs import record_run
from tasks.publishing import publish_results
from tasks.run_summary import RunSummary, summarise_run
from tests.homes import decode_again, make_home


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = make_home(tmp_path_factory.mktemp("home"), size=15, revisions=3)
    publish_results(folder)
    return folder


def summary_of(home, artifacts: list[Artifact]) -> RunSummary:
    record_run(home, "tried", state="completed", settings={"name": "tried"}, artifacts=artifacts, prefect_run=None)
    return summarise_run(home, "tried")


def test_the_table_has_a_line_a_curve_and_a_column_a_revision(home):
    text = summary_of(home, list_artifacts(home, "policies")).markdown
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == "| policy | eval_set | is_ood | revision 0 | revision 1 | revision 2 | revision 3 | n |"
    assert len(lines) == 2 + 3 * 2  # head and rule; policies x evaluation sets
    (published,) = run_query(
        home,
        "SELECT win_rate, ci_low, ci_high FROM win_rates WHERE method = 'srpo' AND eval_set = 'long' AND revision_index = 3",
    ).to_pylist()
    (line,) = (line for line in lines if line.startswith("| srpo | long | yes"))
    rate, low, high = (f"{100 * published[name]:.1f}" for name in ("win_rate", "ci_low", "ci_high"))
    assert line.endswith(f"| {rate} ({low}–{high}) | 14 |")  # prompt 0 has a score in one order only


def test_verdicts_without_a_score_are_counted_with_their_reason(home):
    """3 policies x 2 sets x 15 prompts x 4 texts x 2 orders; of each text of prompt 0 one order has no score."""
    text = summary_of(home, list_artifacts(home, "policies") + list_artifacts(home, "games")).markdown
    assert "720 games, 696 scored, 24 unscored; 24 × no label in the reply." in text


def test_another_runs_policies_in_the_same_home_are_left_out(home):
    srpo = [policy for policy in list_artifacts(home, "policies") if policy.info["name"] == "srpo"]
    summary = summary_of(home, srpo)
    assert {row["name"] for row in summary.rows} == {"srpo"}
    assert len(summary.rows) == 2 * 4
    assert "dpo" not in summary.markdown


def test_the_sql_gives_the_rows(home):
    summary = summary_of(home, list_artifacts(home, "policies"))
    assert run_query(home, summary.sql).to_pylist() == summary.rows


def test_a_home_without_a_database_is_refused(tmp_path):
    policies = list_artifacts(make_home(tmp_path), "policies")
    with pytest.raises(UnusableInput, match="srpo publish"):
        summary_of(tmp_path, policies)


def test_each_way_of_decoding_has_its_line(tmp_path):
    publish_results(decode_again(make_home(tmp_path, size=10, revisions=3)))
    text = summary_of(tmp_path, list_artifacts(tmp_path, "policies")).markdown
    lines = [line for line in text.splitlines() if line.startswith("| srpo | id |") and "| gold |" in line and "| rule |" in line]
    assert len(lines) == 2 and sum("| max_new_tokens=8 top_p=1.0 |" in line for line in lines) == 1
