"""How a run ended, for its record and its state message: completed, failed, cancelled or suspended, and why in one sentence.

Does not import Prefect by itself: `srpo run` without a server uses this too.
"""

import sys
from typing import NamedTuple

from srpo_core.errors import InputError, WorkFailed, first_line
from storage.errors import StorageError

EXPECTED = (InputError, WorkFailed, StorageError)  # their message is one sentence for a person
AGAIN = "what is complete stays: run it again to go on from there"


class Ending(NamedTuple):
    """Why a run did not complete."""

    state: str  # failed; cancelled: a person ended it; suspended: a person is asked
    sentence: str


def ending_of(error: BaseException) -> Ending:
    """What to write down about a run that ended with `error`."""
    if isinstance(error, EXPECTED):
        return Ending("failed", str(error))
    if isinstance(error, KeyboardInterrupt):
        return Ending("cancelled", f"interrupted by Ctrl-C; {AGAIN}")
    if isinstance(error, SystemExit):
        return Ending("cancelled", f"ended by SIGTERM; {AGAIN}")
    if _is_signal_of_prefect(error):
        from flows.under_prefect.cancellation import CANCELLED, is_cancelled

        return Ending("cancelled", CANCELLED) if is_cancelled() else Ending("failed", f"ended by SIGTERM; {AGAIN}")
    if _is_pause_of_prefect(error):
        return Ending("suspended", "waits for a person, without a process: resume it in the Prefect UI")
    return Ending("failed", unforeseen(error))


def unforeseen(error: BaseException) -> str:
    """An error nobody foresaw, in one line: its kind and the first line of what it says."""
    if isinstance(error, OSError) and error.strerror:
        where = f" at {error.filename}" if error.filename else ""
        return f"the system refused{where}: {error.strerror}; mend that and run again, what is complete stays"
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said}"


def _is_signal_of_prefect(error: BaseException) -> bool:
    if "prefect" not in sys.modules:
        return False
    from prefect.exceptions import TerminationSignal

    return isinstance(error, TerminationSignal)


def _is_pause_of_prefect(error: BaseException) -> bool:
    if "prefect" not in sys.modules:
        return False
    from prefect.exceptions import Pause

    return isinstance(error, Pause)
