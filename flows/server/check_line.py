"""One line of `srpo doctor`: what was looked at, how it is, and what to do about it."""

from typing import NamedTuple


class Check(NamedTuple):
    """One thing looked at."""

    name: str
    status: str  # ok; absent: something optional is not there; broken: nothing or less than promised works
    found: str
    needed: str = ""


def verdict(name: str, faults: list[str], well: str, needed: str) -> Check:
    """Broken with the faults and what is needed, or ok when there are none."""
    return Check(name, "broken", "; ".join(faults), needed) if faults else Check(name, "ok", well)
