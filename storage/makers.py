"""Which run made an artifact: the rule behind `srpo lineage` and the table `made_by`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from storage.artifact import Artifact

Row = Mapping[str, Any]
WHOLE_SECOND = timedelta(seconds=1)  # records state times in whole seconds, rounded down


class Makers:
    """The runs of a home by what they used."""

    def __init__(self, runs: Iterable[Row]) -> None:
        """`runs`: records as `read_runs` gives them."""
        self._users: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
        for run in sorted(runs, key=_order):
            for used in run["stages"]:
                self._users[used["stage"], used["fingerprint"], used["digest"]].append(run)

    def run_of(self, artifact: Artifact) -> Row | None:
        """The run that made it, or None: it was made by a command of its own, or the record is gone.

        Of the runs that used it and were at work when it was completed, it is the one whose flow run it names, else the one that
        began first: another may have waited for it.
        """
        created = _time(artifact.manifest["created_at"])
        users = self._users.get((artifact.stage, artifact.fingerprint, artifact.digest), [])
        at_work = [run for run in users if _was_at_work(run, created)]
        named = artifact.manifest.get("prefect_run")
        return next((run for run in at_work if named and run.get("prefect_run") == named), at_work[0] if at_work else None)


def _was_at_work(run: Row, moment: datetime) -> bool:
    """What a record of an earlier version does not say rules nothing out."""
    began, recorded = run.get("started_at"), run.get("recorded_at")
    has_begun = began is None or _time(began) <= moment
    return has_begun and (recorded is None or moment < _time(recorded) + WHOLE_SECOND)


def _order(run: Row) -> tuple[str, str]:
    return run.get("started_at") or run.get("recorded_at") or "", str(run["run_id"])


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
