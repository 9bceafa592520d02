"""One line a stage on standard error: its name, what came out, and how long it took or that it was complete already."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any

logger = logging.getLogger("srpo")
SHOWN_COUNTS = 3


def with_line(stage: Callable[..., Any]) -> Callable[..., Any]:
    """`stage`, followed by a line in the log."""

    @wraps(stage)
    def run(*args: Any, **options: Any) -> Any:
        began, clock = datetime.now(UTC), time.monotonic()
        result = stage(*args, **options)
        logger.info("%s … %s", stage.__name__.replace("_", " "), _outcome(result, began, time.monotonic() - clock))
        return result

    return run


def _outcome(result: Any, began: datetime, seconds: float) -> str:
    from storage.artifact import Artifact, was_made_since
    from storage.names import name_artifact
    from tasks.log_lines import in_words

    artifacts = [one for one in (result if isinstance(result, list) else [result]) if isinstance(one, Artifact)]
    names = ", ".join(name for name in map(name_artifact, artifacts) if name)
    if artifacts and not any(was_made_since(one, began) for one in artifacts):
        return f"complete already ({names})" if names else "complete already"
    counts = [(name, count) for one in artifacts for name, count in one.counts.items() if count]
    facts = in_words(dict(counts[:SHOWN_COUNTS])) if len(artifacts) == 1 else ""
    text = ": ".join(part for part in (names, facts) if part)
    return f"{seconds:.1f} s ({text})" if text else f"{seconds:.1f} s"
