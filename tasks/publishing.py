"""Publishing: everything in a home, with its statistics, as one database that anybody can open (docs/artifacts.md).

A stage without an artifact of its own: `results.duckdb` is a copy of what the Parquet artifacts say, made anew each time.
"""

from pathlib import Path

from storage.results_db import publish_snapshot
from tasks.statistics import compute_statistics


def publish_results(home: Path) -> Path:
    """Build `<home>/results.duckdb` from the artifacts in `home`, swap it in, and return its path.

    Raises UnusableInput when there is no home, and BrokenArtifact when a listed file is missing or unreadable; the snapshot
    published before stays in both cases.
    """
    return publish_snapshot(Path(home), compute_statistics)
