"""A run with its record in `<home>/runs/`: what it was asked, what it used, how it ended and why.

The record is written anew whenever a stage begins or ends, so that a run whose process is killed has told what it used until then
and at which stage it was. A Prefect run that is retried keeps its id, and so it keeps its record and adds to it: one run is one
record, however many attempts it took.
"""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.endings import ending_of
from flows.training_stages import Stage
from flows.under_prefect.run_pages import run_page
from storage.artifact import Artifact
from storage.runs import find_run, holding, read_run, record_run, utc_now
from tasks.publishing import publish_results
from tasks.reporting import write_report

Row = dict[str, Any]


def run_with_record(
    body: Callable[[Stage], object],
    settings: BaseModel,
    home: Path,
    stage: Stage,
    *,
    used: Sequence[Artifact] = (),
    prefect_run: str | None = None,
    deployment: str | None = None,
) -> str:
    """Do `body`, which is given what to make its stages with, then publish and report; the run's id.

    `used` are artifacts that the run stands on and that were there before its first stage.

    The record says running from the start on, and at the end completed, failed or cancelled, with the sentence that says why.
    """
    asked = settings.model_dump(mode="json")
    known = find_run(home, prefect_run, asked)
    run_id = str(known["run_id"]) if known else _new_run_id()
    facts: Row = {"settings": asked, "prefect_run": prefect_run, "deployment": deployment, "prefect_page": run_page(prefect_run)}
    with holding(home, run_id):
        earlier = read_run(home, run_id) if known else {}  # only now: an earlier attempt may have written until it let go
        facts |= {"started_at": earlier.get("started_at") or utc_now(), "earlier": earlier.get("stages", [])}
        stages = _RecordedStages(stage, used, earlier.get("timings") or [], partial(record_run, home, run_id, **facts))
        try:
            stages.record("running")
            body(stages.stage)
            stages.record("completed")  # before publishing, so that the database tells of this run
            stage(publish_results)(home)
            stage(write_report)(home)
        except BaseException as error:
            state, sentence = ending_of(error)
            stages.record(state, stages.naming_stage(sentence))
            raise
    return run_id


def _new_run_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"


class _RecordedStages:
    """Stages that are written into the run's record when they begin and when they end, also where several are at work at once."""

    def __init__(self, stage: Stage, used: Sequence[Artifact], timings: list[Row], write: Callable[..., object]) -> None:
        """`timings`: what earlier attempts took; `write` is `record_run` of this run."""
        self._stage, self._write = stage, write
        self._ended, self._at_work = timings, list[Row]()
        self._places = [list(used)]
        self._failed = ""
        self._lock = threading.Lock()

    def stage(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as a stage of the run; what it returns is kept."""
        staged, place = self._stage(function), []  # type: tuple[Callable[..., Any], list[Artifact]]
        self._places.append(place)  # in the order in which stages were made, whatever order they end in
        name = function.__name__.replace("_", " ")

        @wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            call: Row = {"stage": name, "seconds": None, "artifacts": []}
            began = time.monotonic()
            with self._lock:
                self._at_work.append(call)
            self.record("running")
            try:
                result = staged(*args, **options)
                returned = result if isinstance(result, list) else [result]
                place.extend(one for one in returned if isinstance(one, Artifact))
                call["artifacts"] = [f"{one.stage}/{one.fingerprint}" for one in place]
            except BaseException:
                self._failed = self._failed or name
                raise
            finally:
                call["seconds"] = round(time.monotonic() - began, 1)
                with self._lock:
                    self._ended.append(call)
                    self._at_work = [one for one in self._at_work if one is not call]
            self.record("running")
            return result

        return run

    def record(self, state: str, failure: str | None = None) -> None:
        """Write what is known until now, each artifact once; calls in the order in which they ended, those at work last."""
        with self._lock:
            artifacts = list(dict.fromkeys(one for place in self._places for one in place))
            self._write(state=state, artifacts=artifacts, timings=[*self._ended, *self._at_work], failure=failure)

    def naming_stage(self, sentence: str) -> str:
        """`sentence`, beginning with the stage that failed first, if one did."""
        return sentence if sentence.startswith(self._failed) else f"{self._failed}: {sentence}"
