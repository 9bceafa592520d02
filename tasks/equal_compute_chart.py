"""The chart of equal compute: win rate over generated tokens, a line for the revisions and one for each selector of drafts."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from srpo_core.charts import COLOURS, Line, line_chart

Row = dict[str, Any]
# A selector's line has the colour of one of the report's methods that is not drawn here; revisions keep their policy's own.
_COLOUR_OF = {"likelihood_sum": "hub", "likelihood_mean": "ipo", "judge": "dpo", "reward_model": "ipo_both"}
_CURVE = itemgetter("eval_set", "judge", "temperature", "label", "policy_id")
_X_LABEL = "generated tokens per prompt; dots: revisions 0, 1, 2 … and best of 1, 2, 3 … drafts"
_NAMES = {
    "likelihood_sum": "by likelihood",
    "likelihood_mean": "by likelihood per token",
    "judge": "by judge",
    "reward_model": "by reward model",
    "oracle": "best of n at most",
}


def draw_equal_compute(rows: Sequence[Row], *, title: str, method: str) -> str:
    """An SVG element of rows of table `equal_compute` of one policy and evaluation set; bands are the intervals."""
    scored = [row for row in rows if row["win_rate"] is not None]
    groups = groupby(scored, key=lambda row: (row["strategy"], row["selector"]))
    lines = [_line(list(group), selector, method) for (_, selector), group in groups]
    return line_chart(lines, title=title, x_label=_X_LABEL, y_label="win rate", percent=True, width=7.2, height=4.2)


def equal_compute_charts(rows: Sequence[Row]) -> list[dict[str, str]]:
    """One chart for each policy, evaluation set, judge and temperature of `rows`, which stand together, for the report."""
    charts = []
    for (eval_set, judge, temperature, label, _), group in groupby(rows, key=_CURVE):
        own = list(group)
        svg = draw_equal_compute(own, title=f"{label} on {eval_set}", method=own[0]["method"])
        charts.append({"svg": svg, "caption": f"judge {judge} · T = {temperature:g}"})
    return charts


def _line(rows: list[Row], selector: str | None, method: str) -> Line:
    x, y, low, high = ([row[name] for row in rows] for name in ("mean_tokens", "win_rate", "ci_low", "ci_high"))
    if selector == "oracle":
        return Line(_NAMES[selector], "", x, y, weight="dotted")
    if selector is not None:
        return Line(_NAMES[selector], _COLOUR_OF[selector], x, y, low, high)
    own = method if method in COLOURS and method not in _COLOUR_OF.values() else "srpo"
    return Line("revisions", own, x, y, low, high)
