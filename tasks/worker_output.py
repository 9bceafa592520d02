"""What of the plain output of worker processes a person needs: warnings and errors of libraries, each once and not without end.

Everything else they print stays in their output file, whose path the log names.
"""

import logging
import re
from pathlib import Path

from tasks.log_lines import below_home

logger = logging.getLogger("srpo")
MOST_LINES = 40  # of one launch that reach the log; every line of a run's log is a row on the server
LONGEST_LINE = 500  # characters
_TROUBLE = re.compile(
    r"\b(\w*warning|(?-i:WARN)|\w*error|\w*exception|traceback|critical|fatal|killed|out of memory)\b", re.IGNORECASE
)


class WorkerOutput:
    """The lines of one launch on their way into the log."""

    def __init__(self, stage: str, output: Path) -> None:
        """`stage` begins every line; `output` is where the whole output goes."""
        self._stage, self._output = stage, below_home(output)
        self._seen: set[str] = set()
        logger.info("%s: everything the workers print is in %s", stage, self._output)

    def take(self, line: str) -> None:
        """Log a line: as a warning when it tells of trouble and was not seen before, else for debugging."""
        if not _TROUBLE.search(line) or line in self._seen:
            logger.debug("%s: %s", self._stage, line)
            return
        self._seen.add(line)
        if len(self._seen) <= MOST_LINES:
            logger.warning("%s: %s", self._stage, line.strip()[:LONGEST_LINE])
        elif len(self._seen) == MOST_LINES + 1:
            logger.warning("%s: more such lines are in %s", self._stage, self._output)
