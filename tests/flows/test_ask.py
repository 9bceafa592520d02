"""The flow that answers a stored question: its form offers the stored ones, its answer is a table under the question's name."""

import json
from pathlib import Path
from typing import Any, get_args

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.utilities.callables import parameter_schema

from flows.ask import Question, QuestionParameters, ask_question
from storage.stored_queries import list_queries


def test_the_form_offers_every_stored_question_and_every_parameter() -> None:
    assert get_args(Question) == tuple(list_queries())
    taken = {own.name for query in list_queries().values() for own in query.parameters}
    assert set(QuestionParameters.model_fields) == taken
    schema = parameter_schema(ask_question).model_dump_for_openapi()
    assert schema["properties"]["name"]["enum"] == list(list_queries())
    described: dict[str, Any] = schema["definitions"]["QuestionParameters"]["properties"]
    assert "judge_spending" in described["days"]["description"] and "disk_use" not in str(described)


def test_an_answer_is_a_table_artifact_with_the_question_above_it(server: None, operated_home: Path) -> None:
    parameters = QuestionParameters(days=30)
    assert ask_question("rejected_challengers", parameters, str(operated_home)) == "2 rows"
    key = ArtifactFilter(key=ArtifactFilterKey(any_=["rejected-challengers"]))
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(artifact_filter=key)
    assert artifact.type == "table" and "Which challengers were rejected" in (artifact.description or "")
    assert [row["policy_id"] for row in json.loads(artifact.data)] == ["dpo-2", "dpo-1"]


def test_a_parameter_the_question_does_not_take_fails_the_run_with_one_sentence(server: None, operated_home: Path) -> None:
    state = ask_question("disk_use", QuestionParameters(days=30), str(operated_home), return_state=True)
    assert state.is_failed() and "expected a parameter of the query disk_use (none), found 'days'" in (state.message or "")
