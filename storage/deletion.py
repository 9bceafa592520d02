"""Deleting artifacts so that a home is whole at every moment, also when the process is killed on the way.

Each folder leaves its place by one rename, children before what they were made from, and is emptied afterwards. Nobody can be
using one: all are reserved first (`storage/usage.py`), and what may go is worked out again while they are. Publishing waits.
"""

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.lease import lease, try_lease
from storage.retention import ROWS, CleaningPlan, Item, plan_cleaning
from storage.usage import reserve

TRASH = ".deleted"


def clean_home(home: Path, **rule: Any) -> CleaningPlan:
    """Delete what `plan_cleaning(home, **rule)` lets go and nobody uses; what went, and what stayed with its reason."""
    candidates = plan_cleaning(home, **rule).going
    with lease(home / ".publishing"):
        with reserve(home, [item.name for item in candidates]) as free:
            plan = plan_cleaning(home, **rule, only=free)
            gone = _take_all(home, plan.going)
        _empty_trash(home)
    left = [item._replace(reason="being written") for item in plan.going if item not in gone]
    return CleaningPlan(gone, [*plan.staying, *left])


def unused(home: Path, plan: CleaningPlan, **rule: Any) -> CleaningPlan:
    """`plan` once more, with what other processes use at this moment kept. Deletes nothing."""
    with reserve(home, [item.name for item in plan.going]) as free:
        return plan_cleaning(home, **rule, only=free)


def _take_all(home: Path, items: Sequence[Item]) -> list[Item]:
    """Take away one by one; where a complete artifact has to stay, so does what comes behind it: it may be its parent."""
    gone = []
    for item in items:
        if _take_away(home, item):
            gone.append(item)
        elif item.complete and not item.name.startswith(f"{ROWS}/"):
            break
    return gone


def _take_away(home: Path, item: Item) -> bool:
    """Move a folder out of the way at once; False where someone began to write into it."""
    path = home / item.name
    target = home / TRASH / f"{item.name.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
    target.parent.mkdir(exist_ok=True)
    with try_lease(path) as free:
        if free:
            os.rename(path, target)
        return free


def _empty_trash(home: Path) -> None:
    """Also of what an earlier deletion left that was killed."""
    shutil.rmtree(home / TRASH, ignore_errors=True)
