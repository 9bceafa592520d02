"""The records of a card: each loss once and the policy's own, and every win rate with the settings that tell it from another."""

from pathlib import Path

from storage.artifact import Artifact, list_artifacts
from tasks.card_records import count_left_out, read_rates_of
from tests.homes import decode_again, make_home, put, put_policy


def put_merge(home: Path, number: int) -> Artifact:
    """The merge of the week `number`, with as many rejected rows and duplicates."""
    info, counts = {"rejected_by_reason": {"empty": number}}, {"pairs": 5, "merged_duplicates": number}
    return put(home, "preferences", {}, settings={"week": number}, counts=counts, info=info)


def put_rows(home: Path, number: int) -> Artifact:
    return put(home, "reference", {}, settings={"week": number}, counts={"pairs_too_long": number})


def test_what_a_policy_trained_on_from_lost_is_not_told_again(tmp_path: Path) -> None:
    """Each week's merge holds the one before, so the last one's counts are all there is to tell."""
    merges, rows = [[make(tmp_path, week) for week in (1, 2, 3)] for make in (put_merge, put_rows)]
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": merges[2], "reference_rows": rows[2]})
    assert list(count_left_out(tmp_path, policy, [policy, *merges, *rows])) == [
        "3 source rows: empty",
        "3 duplicates of pairs, merged with their votes added",
        "3 pairs that exceed the context",
    ]


def test_a_policy_without_pairs_of_its_own_tells_what_its_ancestors_lost(tmp_path: Path) -> None:
    merge = put_merge(tmp_path, 2)
    demonstrations = put(tmp_path, "demonstrations", {}, parents={"preferences": merge})
    policy = put_policy(tmp_path, "sft", "sft", {"demonstrations": demonstrations})
    assert "2 source rows: empty" in list(count_left_out(tmp_path, policy, [policy, demonstrations, merge]))


def test_no_two_win_rates_of_a_policy_decoded_two_ways_stand_under_the_same_settings(tmp_path: Path) -> None:
    home = decode_again(make_home(tmp_path, size=4, revisions=1))
    srpo = next(one for one in list_artifacts(home, "policies") if one.info["name"] == "srpo")
    numbers = ("win rate", "95 % interval", "n", "unscored games")
    keys = [tuple(cell for title, cell in row.items() if title not in numbers) for row in read_rates_of(home, srpo)]
    assert len(keys) == len(set(keys)) > 4
