"""Errors a user can cause: one sentence saying what was expected, what was found, where, and what to do."""


class InputError(ValueError):
    """Data or settings that cannot be used; the command line prints the sentence and exits with status 2."""


class WorkFailed(RuntimeError):
    """The work itself failed (a process died, a loss became NaN); the command line exits with status 1."""


class Transient(Exception):
    """Beside one of the two above: what failed may work in a minute as it is, such as a server that is down or overloaded."""


class JudgeIsDown(WorkFailed, Transient):
    """A judge does not answer."""


class HubIsDown(InputError, Transient):
    """The hub does not answer."""


def first_line(error: BaseException) -> str:
    """What an error of others says first, or its kind where it says nothing; short enough for a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


_BUSY = (408, 429, 500, 502, 503, 504)
# By name: the HTTP library below a client changes with its version. Being offline by a setting does not pass by itself.
_FAULTS_OF_THE_NETWORK = {"TransportError", "ConnectionError", "TimeoutError", "Timeout"}
_OFFLINE = "OfflineModeIsEnabled"


def is_network_fault(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a failed connection or the answer of an overloaded server."""
    while error is not None:
        names = {one.__name__ for one in type(error).__mro__}
        if _OFFLINE in names:
            return False
        if names & _FAULTS_OF_THE_NETWORK or getattr(getattr(error, "response", None), "status_code", None) in _BUSY:
            return True
        error = error.__cause__ or error.__context__
    return False
