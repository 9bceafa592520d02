"""What tests do until something that another process or thread brings about is there."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], seconds: float = 60.0, what: str = "waited in vain") -> Any:
    """The first true value of the condition."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return value
