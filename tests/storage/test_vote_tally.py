"""Votes of equal pairs are added at the first occurrence, whatever the number of buckets."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import vote_tally
from storage.vote_tally import VoteTally

rows = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(1, 8)), min_size=1, max_size=200
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(rows, st.sampled_from([1, 7, 1000]), st.integers(1, 50))
def test_sums_equal_those_of_a_dictionary(
    tmp_path: Path, rows: list[tuple[int, float, int]], per_bucket: int, batch: int
) -> None:
    naive: dict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    first: dict[int, int] = {}
    for position, (name, preference, votes) in enumerate(rows):
        first.setdefault(name, position)
        naive[name] = [naive[name][0] + preference * votes, naive[name][1] + votes, naive[name][2] + 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vote_tally, "VOTES_PER_BUCKET", per_bucket)
        tally = VoteTally(tmp_path / "shuffle", len(rows))
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            tally.add([f"{r[0] * 2**59:016x}" for r in some], np.array([r[1] for r in some]), np.array([r[2] for r in some]))
        tally.close()
    found = [tuple(record) for start in range(0, len(rows), batch) for record in tally.read(start, min(start + batch, len(rows)))]
    for position, (name, _, _) in enumerate(rows):
        expected = tuple(naive[name]) if first[name] == position else (0.0, 0, 0)
        assert found[position] == pytest.approx(expected)


def test_a_row_too_few_is_a_fault_of_the_caller(tmp_path: Path) -> None:
    tally = VoteTally(tmp_path, 2)
    tally.add(["00" * 8], np.array([1.0]), np.array([1]))
    with pytest.raises(ValueError, match="expected 2 rows, 1 were added"):
        tally.close()
