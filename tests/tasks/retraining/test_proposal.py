"""What is said of a challenger to the person who decides, and to whoever reads the decision."""

from srpo_core.scoring.promotion import TextShares, compare
from srpo_core.settings.retraining import PromotionSettings
from tasks.retraining.proposal import Proposal, proposal_markdown
from tasks.retraining.standing import Changes, Standing
from tests.homes import put
from tests.srpo_core.scoring.test_promotion import one_set

PLAIN = TextShares(20.0, 0.0, 0.0, 0.0)


def test_a_person_sees_differences_guards_and_curves(tmp_path):
    policy = put(tmp_path, "policies", {}, settings={"method": "srpo"})
    settings = PromotionSettings(margin=0.05, min_clusters=2)
    screening = compare([one_set([0.1, 0.3, 0.2, 0.4] * 10)], [PLAIN], [PLAIN._replace(empty=0.5)], settings, 0.05)
    row = {"role": "challenger", "opponent": "gold", "eval_set": "id", "revision_index": 1, "win_rate": 0.75}
    curve = [row | {"ci_low": 0.5, "ci_high": 0.875, "n": 4, "mean_tokens": 20.0}]
    proposal = Proposal(policy, policy, Standing("a", Changes(3, 1), "x", None), screening, None, None, {"screening": curve})
    text = proposal_markdown(proposal, "Rejected", {"entry": 7})
    assert "# Rejected" in text and "- entry: 7" in text and "## Confirmation" not in text
    limit = f"{100 * screening.difference.ci_low:+.1f}"
    assert f"Difference +25.0 points, lower limit {limit} at a one-sided error of 0.05, margin +5.0; n = 40 prompts." in text
    assert "| id | +25.0 |" in text and "| empty on id | -0.500 | 0.100 | ok |" in text
    assert "| id | challenger | gold | 75.0 (50.0–87.5) |" in text
    refused = compare([one_set([0.1, 0.3, 0.2, 0.4] * 10)], [PLAIN._replace(empty=0.5)], [PLAIN], settings, 0.05)
    assert "| empty on id | 0.500 | 0.100 | refuses |" in proposal_markdown(proposal._replace(screening=refused), "Rejected", {})
