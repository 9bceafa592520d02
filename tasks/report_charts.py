"""Which lines go into which chart of the report; drawing is `srpo_core.charts`."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np

from srpo_core.charts import Line, line_chart

Row = dict[str, Any]
SETTING = ("eval_set", "judge", "opponent", "opponent_revision_index", "temperature", "sampling", "opponent_policy_id")
MOST_LINES = 8  # more policies than this in one chart are drawn thin, under one line a method
TRAINING_POINTS = 120
# What to show of a training log, in this order, where it was logged.
METRICS = {
    "loss": "loss",
    "generative_accuracy": "pairs ordered right, draft prompt",
    "self_improvement_given_rejected_accuracy": "pairs ordered right, revising the rejected text",
    "self_improvement_given_chosen_accuracy": "pairs ordered right, revising the chosen text",
    "consistency_gap": "D_l − D_w (nats; 0 when fitted)",
    "grad_norm": "gradient norm",
}


def win_rate_charts(rates: list[Row]) -> list[dict[str, str]]:
    """One chart a setting (evaluation set, judge, opponent, decoding) from rows of `win_rates_with_ceilings`."""

    def setting(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in SETTING)

    ordered = sorted(rates, key=lambda row: [str(value) for value in setting(row)])
    charts = []
    for key, group in groupby(ordered, key=setting):
        eval_set, judge, opponent, revision, temperature, sampling, _ = key
        rows = list(group)
        lines = _win_rate_lines(rows)
        # A policy of unknown training (a hub model) stands in the chart of those whose training is known.
        is_ood = next((row["is_ood"] for row in rows if row["is_ood"] is not None), None)
        kind = {True: "out of distribution", False: "in distribution", None: "distribution unknown"}[is_ood]
        against = opponent if revision is None else f"{opponent}, revision {revision}"
        if any(line.weight == "thin" for line in lines):
            kind = f"thin: one policy, thick: mean of a method · {kind}"
        caption = f"{kind} · against {against} · judge {judge}" + ("" if temperature is None else f" · T = {temperature:g}")
        svg = line_chart(lines, title=eval_set, x_label="self-revisions", percent=True, whole_x=True)
        order = f"{is_ood is None}{is_ood}{eval_set}"
        charts.append({"order": order, "eval_set": eval_set, "svg": svg, "caption": caption, "sampling": sampling or ""})
    return sorted(charts, key=lambda chart: chart["order"])


def _win_rate_lines(rows: list[Row]) -> list[Line]:
    scored = [row for row in rows if row["win_rate"] is not None]
    scored.sort(key=lambda row: row["revision_index"])
    by_policy = _grouped(scored, ("method", "policy_id"))
    crowded = len(by_policy) > MOST_LINES
    lines = [_curve(curve, crowded) for _, curve in by_policy]
    if crowded:
        lines += [_method_mean(method, group) for (method,), group in _grouped(scored, ("method",))]
    return lines + _ceilings(by_policy)


def _curve(rows: list[Row], thin: bool) -> Line:
    x, y = [row["revision_index"] for row in rows], [row["win_rate"] for row in rows]
    if thin:
        return Line("", rows[0]["method"], x, y, weight="thin")
    return Line(rows[0]["label"], rows[0]["method"], x, y, [row["band_low"] for row in rows], [row["band_high"] for row in rows])


def _method_mean(method: str, rows: list[Row]) -> Line:
    means = {k: float(np.mean([r["win_rate"] for r in group])) for (k,), group in _grouped(rows, ("revision_index",))}
    return Line(method, method, sorted(means), [means[k] for k in sorted(means)])


def _ceilings(by_policy: list[tuple[tuple[Any, ...], list[Row]]]) -> list[Line]:
    """Dotted, once a beta: policies of one beta share the optimum they could reach."""
    found: dict[float | None, Line] = {}
    for _, rows in by_policy:
        known = [row for row in rows if row["ceiling"] is not None]
        if known:
            beta = known[0]["beta"]
            label = "ceiling" if beta is None else f"ceiling β {beta:g}"
            found[beta] = Line(label, "", [r["revision_index"] for r in known], [r["ceiling"] for r in known], weight="dotted")
    return list(found.values())


def training_charts(log: list[Row]) -> list[str]:
    """One chart a metric; the losses of different methods have different scales, so each method's loss has its own."""
    charts = []
    for name, title in METRICS.items():
        rows = [row for row in log if row["metric"] == name]
        for method, group in _grouped(rows, ("method",)) if name == "loss" else [((None,), rows)]:
            lines = [_smoothed(curve) for _, curve in _grouped(group, ("policy_id",))]
            if lines:
                heading = title if method == (None,) else f"{title}: {method[0]}"
                charts.append(line_chart(lines, title=heading, x_label="optimizer step", height=2.5))
    return charts


def _smoothed(rows: list[Row]) -> Line:
    """At most TRAINING_POINTS points, each the mean of as many neighbouring steps."""
    rows = sorted(rows, key=lambda row: row["step"])
    chunks = np.array_split(np.arange(len(rows)), min(TRAINING_POINTS, len(rows)))
    x = [float(np.mean([rows[i]["step"] for i in chunk])) for chunk in chunks]
    y = [float(np.mean([rows[i]["value"] for i in chunk])) for chunk in chunks]
    return Line(rows[0]["label"], rows[0]["method"], x, y, weight="line")


def _grouped(rows: Iterable[Row], names: tuple[str, ...]) -> list[tuple[tuple[Any, ...], list[Row]]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return list(groups.items())
