"""`srpo score FILE` with everything: the groups of a file of verdicts, and the tables that compare them.

The tables are those of the results database, made by the same code from the same relation (`storage.schemas.COMPARISONS`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from srpo_core.scoring.score_files import score_groups
from srpo_core.scoring.verdict_groups import Group, read_groups
from storage.schemas import COMPARISONS
from tasks.statistics import JUDGE_CONSISTENCY, compute_statistics

COMPARING = ("win_rate_bands", "revision_gain", "head_to_head", "win_rates_by_method", JUDGE_CONSISTENCY)
# About texts and ids, which a file of verdicts does not show: its ids are in no random order.
_NOT_KNOWN = ("n_identical", "anytime_p_value")
Row = dict[str, Any]


def score_verdicts(path: Path, *, rule: str = "default", anytime_seed: int | None = None) -> Row:
    """Statistics of a file as `srpo_core.scoring.score_files.score_file` gives them; of several groups with `tables` beside them.

    The tables compare groups by the default rule: win rates with simultaneous bands, gains of revisions with Holm's correction,
    methods head to head, methods over seeds, consistency of judges. Judges are never pooled. Raises InputError.
    """
    read = read_groups(path, rule)
    result = score_groups(read, rule=rule, anytime_seed=anytime_seed)
    if len(read[1]) == 1:
        return result
    note = result["note"] + ("" if rule == "default" else "; the tables compare them by the default rule")
    return result | {"note": note, "tables": compare_groups(read[1])}


def compare_groups(groups: Sequence[Group]) -> dict[str, list[Row]]:
    """Rows of every table that has some, without the columns that a file says nothing about."""
    single = any(len(group.comparisons.scores) == 1 for group in groups)
    names = [name for name in COMPARING if not (single and name == JUDGE_CONSISTENCY)]
    tables = compute_statistics(tabulate_groups(groups), names)
    given = {name for group in groups for name in group.key}
    unknown = {*_NOT_KNOWN, *({"revision_index"} - given)}
    found = {name: _known_columns(tables[name], unknown) for name in names}
    return {name: rows for name, rows in found.items() if rows}


def tabulate_groups(groups: Sequence[Group]) -> pa.Table:
    """The groups as comparisons; a score asked in one order only stands for both, as in the group's own result."""
    rows = [row for group in groups for row in _rows(group)]
    return pa.Table.from_pylist(rows, COMPARISONS)


def _rows(group: Group) -> list[Row]:
    asked = group.comparisons
    key = {"revision_index": 0} | group.key
    repeats: dict[int, int] = {}
    rows = []
    for place, question in enumerate(asked.questions.tolist()):
        repeats[question] = repeats.get(question, -1) + 1
        prompt = str(asked.prompts[place])
        rows.append(
            key
            | {"prompt_id": prompt, "cluster_id": str(asked.clusters[place]), "candidate": prompt, "opponent_id": prompt}
            | {"repeat_index": repeats[question], "n_unscored": int(group.unscored[place])}
            | {"candidate_length": _known(asked.lengths[0, place]), "opponent_length": _known(asked.lengths[1, place])}
            | {"as_is": _known(asked.scores[0, place]), "swapped": _known(asked.scores[-1, place])}
            | {"label_as_is": asked.labels[0][place], "label_swapped": asked.labels[-1][place]}
        )
    return rows


def _known(value: float) -> float | None:
    return None if value != value else float(value)


def _known_columns(table: pa.Table, unknown: set[str]) -> list[Row]:
    kept = [name for name in table.column_names if name not in unknown and table[name].null_count < table.num_rows]
    return table.select(kept).to_pylist() if table.num_rows else []
