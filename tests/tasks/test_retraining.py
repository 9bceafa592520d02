"""What is new since a policy was trained, and what is said of a challenger."""

from typing import Any

import pytest

from srpo_core.errors import InputError
from srpo_core.scoring.promotion import TextShares, compare
from srpo_core.settings.retraining import PromotionSettings
from storage.artifact import Artifact
from storage.registry import record_decision
from tasks.promotion import Proposal, proposal_markdown
from tasks.retraining import Standing, count_new_pairs, find_champion
from tests.homes import put
from tests.small_training import pair_rows
from tests.srpo_core.scoring.test_promotion import one_set
from tests.stages import put_pairs

PLAIN = TextShares(20.0, 0.0, 0.0, 0.0)


def trained_on(home: Any, pairs: Artifact) -> Artifact:
    return put(home, "policies", {}, settings={"method": "srpo"}, parents={"preferences": pairs})


def test_pairs_are_new_when_the_policy_had_none_of_them_or_with_another_label(tmp_path):
    rows = pair_rows(8)
    policy = trained_on(tmp_path, put_pairs(tmp_path, rows[:5]))
    assert count_new_pairs(None, put_pairs(tmp_path, rows), tmp_path) == 8
    assert count_new_pairs(policy, put_pairs(tmp_path, rows[:5]), tmp_path) == 0
    assert count_new_pairs(policy, put_pairs(tmp_path, rows), tmp_path) == 3
    swapped = rows[0] | {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    surer = rows[1] | {"preference": 0.95}
    assert count_new_pairs(policy, put_pairs(tmp_path, [swapped, surer, *rows[2:5]]), tmp_path) == 2
    assert count_new_pairs(policy, put_pairs(tmp_path, rows[:3]), tmp_path) == 0  # pairs that went away are nothing new


def test_a_champion_whose_files_are_gone_is_an_error_that_says_what_to_do(tmp_path):
    record_decision(tmp_path, "k", "promoted", {"policy_id": "gone", "by": "command", "reason": "r"})
    with pytest.raises(InputError, match="expected the champion policies/gone .* `srpo promote` another"):
        find_champion(tmp_path)


def test_a_person_sees_differences_guards_and_curves(tmp_path):
    policy = trained_on(tmp_path, put_pairs(tmp_path))
    settings = PromotionSettings(margin=0.05)
    screening = compare([one_set([0.1, 0.3, 0.2, 0.4])], PLAIN, PLAIN._replace(empty=0.5), settings, 0.05)
    row = {"role": "challenger", "opponent": "gold", "eval_set": "id", "revision_index": 1, "win_rate": 0.75}
    curve = [row | {"ci_low": 0.5, "ci_high": 0.875, "n": 4, "mean_tokens": 20.0}]
    proposal = Proposal(policy, policy, Standing("a", 3, "x", None), screening, None, None, {"screening": curve})
    text = proposal_markdown(proposal, "Rejected", {"entry": 7})
    assert "# Rejected" in text and "- entry: 7" in text and "## Confirmation" not in text
    assert "Difference +25.0 points, lower limit +9.8 at a one-sided error of 0.05, margin +5.0; n = 4 prompts." in text
    assert "| id | +25.0 |" in text and "| empty | -0.500 | 0.100 | ok |" in text
    assert "| id | challenger | gold | 75.0 (50.0–87.5) |" in text
