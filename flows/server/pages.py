"""What the server gives in pages, read to the end: it gives so much at once and no more."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

PER_PAGE = 200  # the most the server gives
Item = TypeVar("Item")


def read_all(read: Callable[..., Sequence[Item]], **asked: Any) -> list[Item]:
    """All that a method of the client finds which takes `limit` and `offset`."""
    found: list[Item] = []
    while page := read(**asked, limit=PER_PAGE, offset=len(found)):
        found += page
        if len(page) < PER_PAGE:
            break
    return found
