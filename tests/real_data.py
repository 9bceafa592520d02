"""The real data that some tests read: the folder named by SRPO_TEST_DATA, never copied into the project."""

import os
from pathlib import Path

import pytest


def real_file(name: str) -> Path:
    """A file of the real data; the test is skipped when the folder is not named or lacks it."""
    folder = os.environ.get("SRPO_TEST_DATA")
    if not folder:
        pytest.skip("SRPO_TEST_DATA names no folder with real data")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"the real data has no {name}")
    return path
