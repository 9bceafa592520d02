"""`srpo audit FILE`: verdicts from anywhere beside what people said, read from CSV, JSONL, JSON or Parquet.

Columns are those of `verdict_files.py` and `human`: the share of people who prefer the candidate, in [0, 1], or win, tie or
loss as seen from the candidate; empty where nobody said. Judges are measured one by one and never pooled.
"""

import math
from pathlib import Path
from typing import Any

from srpo_core.errors import InputError
from srpo_core.scoring.audit import LabelledVerdict, arrange, describe, measure_judge
from srpo_core.scoring.verdict_files import UNSCORED, Verdict, read_verdicts
from srpo_core.scoring.win_rate import without_nan

TOLD_APART = ("eval_set", "method", "seed", "revision_index")
LABELS = {"win": 1.0, "candidate": 1.0, "tie": 0.5, "loss": 0.0, "opponent": 0.0}


def audit_file(path: Path) -> dict[str, Any]:
    """Read `path` and measure each judge in it. Raises InputError naming the file and the row."""
    file = read_verdicts(path, also=("human",))
    if "human" not in file.also:
        raise InputError(
            f"expected a column human (the share of people who prefer the candidate, or win, tie, loss) in {path}, found "
            f"{', '.join(file.columns + file.ignored_columns)}; add it, or use srpo score for verdicts without labels"
            + (f" ({'; '.join(file.hints)})" if file.hints else "")
        )
    labels = [_human(value, f"row {number} of {path}") for number, value in enumerate(file.also["human"], start=1)]
    judges = list(dict.fromkeys(verdict.judge for verdict in file.verdicts))
    audits = []
    for judge in judges:
        chosen = [(v, label) for v, label in zip(file.verdicts, labels, strict=True) if v.judge == judge]
        comparisons = arrange((_labelled(verdict, label) for verdict, label in chosen), str(path))
        table = [without_nan(one._asdict()) for one in measure_judge(comparisons)]
        audits.append({"judge": judge} | describe(comparisons) | {"measures": table})
    return {"judges": audits, "ignored_columns": file.ignored_columns, "hints": file.hints}


def _labelled(verdict: Verdict, human: float) -> LabelledVerdict:
    """Rows of one prompt that differ in one of TOLD_APART are about different texts: pairs of their own in one cluster."""
    values = {name: getattr(verdict, name) for name in TOLD_APART}
    pair = ", ".join([verdict.prompt_id, *(f"{name} {value}" for name, value in values.items() if value is not None)])
    return LabelledVerdict(
        pair,
        verdict.order,
        verdict.repeat_index,
        verdict.score,
        human,
        verdict.cluster_id or verdict.prompt_id,
        verdict.candidate_length - verdict.opponent_length,
    )


def _human(value: Any, where: str) -> float:
    text = "" if value is None else str(value).strip().lower()
    if text in UNSCORED:
        return math.nan
    try:
        share = LABELS[text] if text in LABELS else float(text)
    except ValueError:
        share = math.inf
    if not 0 <= share <= 1:
        raise InputError(
            f"expected human in [0, 1], or one of {', '.join(LABELS)}, in {where}, found {value!r}; state it as seen from the "
            "candidate"
        )
    return share
