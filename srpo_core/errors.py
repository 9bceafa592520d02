"""Errors a user can cause: one sentence saying what was expected, what was found, where, and what to do."""


class InputError(ValueError):
    """Data or settings that cannot be used; the command line prints the sentence and exits with status 2."""


class WorkFailed(RuntimeError):
    """The work itself failed (a process died, a loss became NaN); the command line exits with status 1."""
