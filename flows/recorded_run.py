"""A run with its record in `<home>/runs/`: what it was asked, what it used, how it ended and why.

A Prefect run that is retried keeps its id, and so it keeps its record: one run is one record, however many attempts it took.
"""

import time
import uuid
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.endings import ending_of
from flows.training_stages import Stage
from flows.under_prefect.run_pages import run_page
from storage.artifact import Artifact
from storage.runs import find_run, holding, record_run, utc_now
from tasks.publishing import publish_results
from tasks.reporting import write_report


def run_with_record(
    body: Callable[[Stage], object],
    settings: BaseModel,
    home: Path,
    stage: Stage,
    *,
    prefect_run: str | None = None,
    deployment: str | None = None,
) -> str:
    """Do `body`, which is given what to make its stages with, then publish and report; the run's id.

    The record says running from the start on, and at the end completed, failed or cancelled, with the sentence that says why.
    """
    asked = settings.model_dump(mode="json")
    earlier = find_run(home, prefect_run, asked) or {"run_id": _new_run_id(), "started_at": None}
    started_at = earlier["started_at"] or utc_now()
    facts: dict[str, Any] = {"settings": asked, "prefect_run": prefect_run, "deployment": deployment, "started_at": started_at}
    kept = _KeptArtifacts(stage, earlier.get("timings") or [])
    page = run_page(prefect_run)
    record = partial(record_run, home, earlier["run_id"], prefect_page=page, timings=kept.timings, **facts)
    with holding(home, earlier["run_id"]):
        try:
            record(state="running", artifacts=[])
            body(kept.stage)
            record(state="completed", artifacts=kept.artifacts())  # before publishing, so that the database tells of this run
            stage(publish_results)(home)
            stage(write_report)(home)
        except BaseException as error:
            state, sentence = ending_of(error)
            record(state=state, artifacts=kept.artifacts(), failure=kept.naming_stage(sentence))
            raise
    return str(earlier["run_id"])


def _new_run_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"


class _KeptArtifacts:
    """Stages that remember what they returned, in the order in which they were made, whatever order they ended in."""

    def __init__(self, stage: Stage, timings: list[dict[str, Any]]) -> None:
        self._stage = stage
        self.timings = timings  # what earlier attempts took; each stage that ends adds a row
        self._places: list[list[Artifact]] = []
        self._failed = ""

    def stage(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as a stage whose artifacts are kept."""
        staged, place = self._stage(function), []  # type: tuple[Callable[..., Any], list[Artifact]]
        self._places.append(place)

        @wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            name, began = function.__name__.replace("_", " "), time.monotonic()
            try:
                result = staged(*args, **options)
            except BaseException:
                self._failed = self._failed or name
                raise
            finally:
                timing: dict[str, Any] = {"stage": name, "seconds": round(time.monotonic() - began, 1), "artifacts": []}
                self.timings.append(timing)
            returned = result if isinstance(result, list) else [result]
            place.extend(one for one in returned if isinstance(one, Artifact))
            timing["artifacts"] = [f"{one.stage}/{one.fingerprint}" for one in place]
            return result

        return run

    def artifacts(self) -> list[Artifact]:
        """Each once."""
        return list(dict.fromkeys(one for place in self._places for one in place))

    def naming_stage(self, sentence: str) -> str:
        """`sentence`, beginning with the stage that failed first, if one did."""
        return sentence if sentence.startswith(self._failed) else f"{self._failed}: {sentence}"
