"""The study's numbers as study.json, tables to read (study.md) and curves (study_SET.svg)."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables import table
from srpo_core.charts import Line, line_chart, standalone

Row = Mapping[str, Any]
NAMES = {"id": "in distribution", "long": "longer documents", "mix": "other events"}


def write_tables(tables: Mapping[str, Any], folder: Path) -> None:
    """Write all files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    for eval_set in NAMES:
        (folder / f"study_{eval_set}.svg").write_text(_chart(tables, eval_set), encoding="utf-8")
    (folder / "study.md").write_text("\n\n".join(_sections(tables)) + "\n", encoding="utf-8")


def _sections(tables: Mapping[str, Any]) -> list[str]:
    last = len(tables["curves"][0]["rates"]) - 1
    more = next(row for row in tables["curves"] if row["budget"] == "more steps")
    return [
        "# The study",
        f"Made by `make study` at scale `{tables['scale']}` in {tables['minutes']:.0f} minutes of {tables['cores']} CPU cores. "
        "The protocol is in [benchmarks/study.py](../benchmarks/study.py), the world in [newsroom.md](newsroom.md), every "
        "number in [study.json](study.json). Win rates against imperfect gold texts by the exact judge, sampling at temperature "
        "1. Intervals are 95 %, crossed over prompts and training seeds.",
        " ".join(f"![{NAMES[s]}](study_{s}.svg)" for s in NAMES),
        "## Trials\n\nOne seed, prompts of the training distribution that no other table uses. Each method's best after the last "
        "revision goes on to the finals.",
        _trial_table(tables, last),
        f"## Finals\n\n{tables['seeds']} seeds. Equal tokens: {tables['token_ratio']:.2f} times the steps for dpo and ipo, which "
        "read two sequences a pair where the others read six. *Exact* is the closed-form optimum of SRPO at that β, estimated "
        "from samples of the same reference on fewer prompts. *More steps*, added after the other finals: "
        f"{more['seeds']} seeds, compared with the exact fit only.",
        *(f"### {NAMES[s].capitalize()}\n\n{_final_table(tables, s, last)}" for s in NAMES),
        f"## SRPO after {last} revisions, minus the other method",
        table(
            ["set", "budget", "method", "difference"],
            [[NAMES[d["eval_set"]], d["budget"], d["method"], _with_interval(d)] for d in tables["distances"]],
        ),
        "## How much of the exact fit SRPO reached\n\n(win rate − reference) / (exact − reference), by revision, at equal steps "
        "and with more.",
        _share_table(tables, last),
        "What the reviser learned of single edits, in nats of F(edited|draft) − F(draft|draft), against its target (p − ½)/β.",
        _edit_table(tables),
        "D_l − D_w over the last tenth of the steps (0 when fitted): "
        + ", ".join(f"{fit['consistency_gap'][0]['nats']:+.2f} nats at {fit['budget']}" for fit in tables["fit"])
        + ".",
    ]


def _trial_table(tables: Mapping[str, Any], last: int) -> str:
    chosen = {(b["method"], b["beta"], b["learning_rate"]) for b in tables["best"]}
    rows = []
    for trial in tables["trials"]:
        best = (trial["method"], trial["beta"], trial["learning_rate"]) in chosen
        rates = [f"{rate:.3f}" for rate in trial["rates"]]
        rows.append([trial["method"], f"{trial['beta']:g}", f"{trial['learning_rate']:g}", *rates, "chosen" if best else ""])
    return table(["method", "β", "lr", *_revisions(last), ""], rows)


def _final_table(tables: Mapping[str, Any], eval_set: str, last: int) -> str:
    rows = [
        ["reference", "", "", "", *(f"{rate:.3f}" for rate in row["rates"]), ""] for row in _of(tables["reference"], eval_set)
    ]
    for row in _of(tables["curves"], eval_set):
        name = row["method"] if row["budget"] == "equal steps" else f"{row['method']}, {row['budget']}"
        rates = [f"{rate['mean']:.3f}" for rate in row["rates"]]
        rows.append(
            [name, f"{row['beta']:g}", f"{row['learning_rate']:g}", str(row["steps"]), *rates, _with_interval(row["gain"])]
        )
    for row in _of(tables["ceilings"], eval_set):
        rates = [f"*{rate:.3f}*" for rate in row["ceilings"]]
        rows.append(["*exact SRPO*", f"{row['beta']:g}", "", "", *rates, f"*{row['ceilings'][-1] - row['ceilings'][0]:+.3f}*"])
    return table(["method", "β", "lr", "steps", *_revisions(last), f"y{last} − y0"], rows)


def _share_table(tables: Mapping[str, Any], last: int) -> str:
    rows = []
    for eval_set in NAMES:
        for curve in _srpo(tables, eval_set):
            exact = _exact(tables, eval_set, curve["beta"])
            base = exact["reference_win_rate"]
            pairs = zip(curve["rates"], exact["ceilings"], strict=True)
            shares = [f"{(rate['mean'] - base) / (top - base):.0%}" if top > base else "" for rate, top in pairs]
            rows.append([NAMES[eval_set], str(curve["steps"]), *shares])
    return table(["set", "steps", *_revisions(last)], rows)


def _edit_table(tables: Mapping[str, Any]) -> str:
    """One row an edit; of every budget what was learned and in how many pairs the sign was right."""
    fits = tables["fit"]
    head = ["edit", "target", *(f"{name}, {fit['budget']}" for fit in fits for name in ("learned", "sign right"))]
    rows = []
    for edits in zip(*(fit["one_edit"] for fit in fits), strict=True):
        cells = [edits[0]["edit"], f"{edits[0]['target']:+.2f}"]
        for one in edits:
            share = f" ({one['learned'] / one['target']:.0%})" if one["target"] else ""
            cells += [f"{one['learned']:+.2f}{share}", f"{one['sign_right']:.0%}"]
        rows.append(cells)
    return table(head, rows)


def _srpo(tables: Mapping[str, Any], eval_set: str) -> list[Row]:
    return [row for row in _of(tables["curves"], eval_set) if row["method"] == "srpo"]


def _exact(tables: Mapping[str, Any], eval_set: str, beta: float) -> Row:
    return next(row for row in _of(tables["ceilings"], eval_set) if row["beta"] == beta)


def _chart(tables: Mapping[str, Any], eval_set: str) -> str:
    revisions = list(range(len(tables["curves"][0]["rates"])))
    lines = []
    for row in _of(tables["curves"], eval_set):
        if row["budget"] == "equal steps":
            mean, low, high = ([rate[name] for rate in row["rates"]] for name in ("mean", "low", "high"))
            lines.append(Line(row["method"], row["method"], revisions, mean, low, high))
    lines += [Line("reference", "sft", revisions, row["rates"]) for row in _of(tables["reference"], eval_set)]
    exact = _exact(tables, eval_set, _srpo(tables, eval_set)[0]["beta"])
    lines.append(Line("exact SRPO", "srpo", revisions, exact["ceilings"], weight="dotted"))
    title = f"Win rate, {NAMES[eval_set]}"
    return standalone(line_chart(lines, title=title, x_label="self-revisions", percent=True, whole_x=True)) + "\n"


def _of(rows: Iterable[Row], eval_set: str) -> list[Row]:
    return [row for row in rows if row["eval_set"] == eval_set]


def _revisions(last: int) -> list[str]:
    return [f"y{k}" for k in range(last + 1)]


def _with_interval(value: Row) -> str:
    return f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"
