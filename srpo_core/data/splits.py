"""Train, validation and test by cluster: all pairs of a cluster stay together, and a cluster keeps its split as data grows.

A cluster's place is a hash of (seed, cluster), so no other cluster moves it. Where a share is small and clusters are few, the
cluster nearest to the threshold is taken, so that a split that was asked for is never empty.
"""

from functools import lru_cache

from srpo_core.errors import InputError
from srpo_core.records import Split, seed_from

MOST_SEEN = 3  # clusters counted for the message that there are too few


class ClusterSplitter:
    """Observe every cluster first, `settle`, then ask `split_of`. Memory does not grow with the clusters."""

    def __init__(self, *, seed: int, validation_share: float, test_share: float) -> None:
        """Shares are fractions of the clusters. Raises InputError when nothing would be left to train on."""
        if validation_share + test_share >= 1:
            raise InputError(
                f"expected validation_share + test_share below 1, found {validation_share} + {test_share}; "
                "leave clusters to train on"
            )
        self._test_share = test_share
        self._validation_share = validation_share / (1 - test_share)  # of what test leaves
        self._place = lru_cache(maxsize=4096)(lambda kind, cluster: seed_from(seed, kind, cluster) / 2**63)
        self._nearest_test: list[str] = []
        self._nearest_validation: list[str] = []  # two, because the first may be needed for test
        self._trained: set[str] = set()  # up to three clusters beyond both thresholds
        self._forced: dict[str, Split] = {}
        self._seen: set[str] = set()  # up to MOST_SEEN clusters

    def observe(self, cluster: str) -> None:
        """Note a cluster; once or often, in any order."""
        if len(self._seen) < MOST_SEEN:
            self._seen.add(cluster)
        if self._test_share:
            self._nearest_test = self._nearest("test", self._nearest_test, cluster, 1)
        if self._place("test", cluster) < self._test_share:
            return
        if self._validation_share:
            self._nearest_validation = self._nearest("validation", self._nearest_validation, cluster, 2)
        if self._place("validation", cluster) >= self._validation_share and len(self._trained) < 3:
            self._trained.add(cluster)

    def settle(self) -> None:
        """Fill a split that no cluster fell into. Raises InputError when there are too few clusters to split."""
        for cluster in self._nearest_test:
            self._forced[cluster] = "test"
        left = [cluster for cluster in self._nearest_validation if cluster not in self._forced]
        for cluster in left[:1]:
            self._forced[cluster] = "validation"
        if (self._validation_share and not left) or self._trained <= self._forced.keys():
            needed = 1 + bool(self._test_share) + bool(self._validation_share)
            raise InputError(
                f"expected at least {needed} clusters, one of them to train on, found {len(self._seen)}; "
                "give more data, lower validation_share and test_share, or set both to 0"
            )

    def split_of(self, cluster: str) -> Split:
        """The split all pairs of `cluster` belong to."""
        if cluster in self._forced:
            return self._forced[cluster]
        if self._place("test", cluster) < self._test_share:
            return "test"
        return "validation" if self._place("validation", cluster) < self._validation_share else "train"

    def _nearest(self, kind: str, nearest: list[str], cluster: str, keep: int) -> list[str]:
        return sorted({*nearest, cluster}, key=lambda c: (self._place(kind, c), c))[:keep]
