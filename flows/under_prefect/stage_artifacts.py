"""What a flow shows of its result in the UI: a pipeline run its win rates, the flow of one stage what that stage made."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext

if TYPE_CHECKING:
    from storage.artifact import Artifact

logger = logging.getLogger("srpo")


def show_run(home: Path, run_id: str) -> None:
    """Put the summary of a recorded and published run into the UI: a page, and its table to sort."""
    from tasks.run_summary import summarise_run

    summary = summarise_run(home, run_id)
    store_artifact(create_markdown_artifact, summary.markdown, "win-rates", f"Win rates of run {run_id}")
    rows = f"Win rates of run {run_id}: a row for each policy, evaluation set and revision, from 0 to 1 with 95 % intervals"
    told = f"{rows}. The SQL that gives them is on the page win-rates."
    store_artifact(create_table_artifact, summary.rows, "win-rates-table", told)


def show_made(artifacts: "Sequence[Artifact]") -> list[str]:
    """Put what the flow of a stage made into the UI, one page; returns the artifacts' ids."""
    from tasks.progress_artifacts import artifact_key
    from tasks.stage_summary import describe_artifacts

    context = FlowRunContext.get()
    began = datetime.now(UTC) if context is None else context.start_time
    stages = dict.fromkeys(one.stage for one in artifacts)
    ids = [one.fingerprint for one in artifacts]
    if artifacts:
        text = describe_artifacts(artifacts, began)
        store_artifact(create_markdown_artifact, text, artifact_key("made", *stages), f"{', '.join(stages)}: {', '.join(ids)}")
    return ids


def show_published(database: Path, report: Path) -> None:
    """Put where the published results are into the UI."""
    from tasks.stage_summary import describe_published

    store_artifact(create_markdown_artifact, describe_published(database, report), "made-results", str(database))


def store_artifact(create: Callable[..., Any], content: Any, key: str, description: str) -> None:
    """A server that is away does not fail a flow whose work is done."""
    try:
        create(content, key=key, description=description)
    except Exception as error:  # noqa: BLE001  (the client lets its transport's errors through)
        logger.warning("the artifact %s was not stored on the server: %s", key, error)
