"""`ask_question`: the flow of `srpo ask`, a stored question about the published results as a table in the UI."""

from typing import Literal

from prefect import runtime
from prefect.artifacts import create_table_artifact
from pydantic import Field

from flows.under_prefect.forms import form
from flows.under_prefect.stage_tasks import home_folder
from srpo_core.settings.base import Settings
from storage.stored_queries import list_queries

# The files of storage/queries; written out, so that the form offers them (a test compares).
Question = Literal[
    "champion_history",
    "champion_run",
    "collapse",
    "contamination_counts",
    "deployments",
    "disk_use",
    "equal_compute",
    "failed_runs",
    "judge_against_gold",
    "judge_against_people",
    "judge_audits",
    "judge_cost",
    "judge_spending",
    "judges",
    "largest_disagreements",
    "length_drift",
    "lineage_of_win_rate",
    "machine_time",
    "methods_compared",
    "out_of_distribution_gap",
    "prompts_getting_worse",
    "rejected_challengers",
    "rejected_rows_by_reason",
    "reused_artifacts",
    "revision_gain",
    "sentinel",
    "settings_that_differ",
    "share_of_ceiling",
    "stage_times",
    "training_data",
    "unscored_by_week",
    "unscored_reasons",
    "win_rates",
    "worst_prompts",
]


QUERIES = list_queries()


def _of(parameter: str, meaning: str) -> str:
    """What a parameter means, and which questions take it."""
    takers = [query.name for query in QUERIES.values() if parameter in {own.name for own in query.parameters}]
    return f"{meaning} Taken by {', '.join(takers)}."


class QuestionParameters(Settings, title="Parameters"):
    """What narrows an answer down; a question refuses what it does not take."""

    days: int | None = Field(None, ge=1, le=36500, description=_of("days", "How many days back."))
    weeks: int | None = Field(None, ge=1, le=5200, description=_of("weeks", "How many weeks back."))
    limit: int | None = Field(None, ge=1, le=1000, description=_of("limit", "How many rows of each kind."))
    eval_set: str | None = Field(None, description=_of("eval_set", "Name of an evaluation set; none = each."))
    revision_index: int | None = Field(None, ge=0, description=_of("revision_index", "Which one, 0 = the draft; none = all."))
    policy: str | None = Field(None, description=_of("policy", "Name of a policy; none = each."))
    run_id: str | None = Field(None, description=_of("run_id", "Id of a run; none = each, or the newest."))
    other_run_id: str | None = Field(None, description=_of("other_run_id", "Id of the other run; none = the one before."))


NOTHING_SET = QuestionParameters()


def name_run() -> str:
    """The question's name."""
    return f"ask: {runtime.flow_run.parameters['name']}"


@form("ask", name_run)
def ask_question(name: Question, parameters: QuestionParameters = NOTHING_SET, home: str = "") -> str:
    """Answer a stored question from the published results, as a table artifact under the question's name.

    Args:
        name: The question; docs/sql.md shows each with an example of its answer.
        parameters: What narrows the answer down; leave out what the question does not take.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    from tasks.answers import answer_question

    answer = answer_question(home_folder(home), name, parameters.model_dump(exclude_none=True))
    create_table_artifact(answer.rows, key=answer.key, description=answer.description)
    return f"{answer.num_rows} rows"
