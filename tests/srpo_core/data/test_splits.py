"""Clusters are never divided, keep their place as data grows, and fill every split that was asked for."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from srpo_core.data.splits import ClusterSplitter
from srpo_core.errors import InputError


def split(clusters: list[str], validation: float, test: float, seed: int = 0) -> dict[str, str]:
    splitter = ClusterSplitter(seed=seed, validation_share=validation, test_share=test)
    for cluster in clusters:
        splitter.observe(cluster)
    splitter.settle()
    return {cluster: splitter.split_of(cluster) for cluster in clusters}


def test_shares_are_met_over_many_clusters() -> None:
    splits = list(split([f"c{i}" for i in range(4000)], 0.1, 0.2).values())
    # a binomial with standard deviation .0047 and .0063: four of them either side
    assert splits.count("validation") / 4000 == pytest.approx(0.1, abs=0.019)
    assert splits.count("test") / 4000 == pytest.approx(0.2, abs=0.026)


@given(st.integers(3, 12), st.integers(0, 10**6), st.floats(0.001, 0.4), st.floats(0.001, 0.4))
def test_every_split_asked_for_gets_a_cluster(num_clusters: int, seed: int, validation: float, test: float) -> None:
    clusters = [f"c{i}" for i in range(num_clusters)]
    try:
        splits = split(clusters, validation, test, seed)
    except InputError:
        assume(False)  # chance put every cluster below a threshold, which is refused
    assert set(splits.values()) == {"train", "validation", "test"}
    assert splits == split(clusters[::-1] * 2, validation, test, seed)


def test_more_clusters_move_none_where_chance_filled_the_splits() -> None:
    few = split([f"c{i}" for i in range(200)], 0.1, 0.1)
    many = split([f"c{i}" for i in range(2000)], 0.1, 0.1)
    assert {"train", "validation", "test"} == set(few.values()) and few.items() <= many.items()


def test_another_seed_is_another_split() -> None:
    clusters = [f"c{i}" for i in range(200)]
    assert split(clusters, 0.3, 0, seed=0) != split(clusters, 0.3, 0, seed=1)


def test_no_shares_leave_all_to_training_even_one_cluster() -> None:
    assert split(["only"], 0, 0) == {"only": "train"}


@pytest.mark.parametrize(("num_clusters", "validation", "test"), [(1, 0.05, 0.0), (1, 0.0, 0.05), (2, 0.05, 0.05), (3, 0.5, 0.5)])
def test_too_few_clusters_to_split_are_refused(num_clusters: int, validation: float, test: float) -> None:
    with pytest.raises(InputError, match=r"^expected .* found"):
        split([f"c{i}" for i in range(num_clusters)], validation, test)
