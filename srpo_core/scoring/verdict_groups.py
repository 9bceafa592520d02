"""The verdicts of a file, arranged by judge, evaluation set, method, seed and revision: groups that are scored each by itself.

Within a group a prompt has one row per order and repeat, and one candidate's text against one opponent's.
"""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from srpo_core.errors import InputError
from srpo_core.scoring.comparisons import Comparisons
from srpo_core.scoring.scoring_rules import find_rule, read_preferences
from srpo_core.scoring.verdict_files import GROUPING, Verdict, VerdictFile, read_verdicts

PREFERENCES = "alpaca_eval"  # the rule whose scores may be preferences in [1, 2]
Row = dict[str, Any]


class Group(NamedTuple):
    """The verdicts of one judge on one evaluation set about one method, seed and revision."""

    key: Row  # of GROUPING, what the file has
    orders: list[str]  # the one or two labels found; as_is first where there is one
    comparisons: Comparisons  # sorted by prompt and repeat
    unscored: NDArray[np.intp]  # (M,) rows of the file without a score, for each asking


def read_groups(path: Path, rule: str = "default") -> tuple[VerdictFile, list[Group]]:
    """The groups of a file, in a fixed order; under the rule alpaca_eval its scores may be preferences in [1, 2]."""
    find_rule(rule)
    file = read_verdicts(path, highest=2.0 if rule == PREFERENCES else 1.0)
    if rule == PREFERENCES:
        rescaled = read_preferences(np.array([verdict.score for verdict in file.verdicts]))
        pairs = zip(file.verdicts, rescaled.tolist(), strict=True)
        file = file._replace(verdicts=[verdict._replace(score=score) for verdict, score in pairs])
    orders = sorted({verdict.order for verdict in file.verdicts})
    if len(orders) > 2:
        raise InputError(
            f"expected at most two orders (as_is, swapped) in {path}, found {', '.join(map(repr, orders[:5]))}; split the file"
        )
    columns = [name for name in GROUPING if name in file.columns]
    grouped: dict[tuple[Any, ...], list[Verdict]] = defaultdict(list)
    for verdict in file.verdicts:
        grouped[tuple(getattr(verdict, name) for name in columns)].append(verdict)
    ordered = sorted(grouped.items(), key=lambda item: [(value is None, value) for value in item[0]])
    return file, [_arrange(dict(zip(columns, key, strict=True)), verdicts, file.path) for key, verdicts in ordered]


def _arrange(key: Row, verdicts: list[Verdict], path: Path) -> Group:
    cells: dict[tuple[str, int, str], Verdict] = {}
    for verdict in verdicts:
        place = (verdict.prompt_id, verdict.repeat_index, verdict.order)
        if place in cells:
            whose = "".join(f", {name} {value!r}" for name, value in key.items())
            raise InputError(
                f"expected one row per prompt and order in {path}, found prompt {place[0]!r} with order {place[2]!r} twice"
                f"{whose}{f', repeat_index {place[1]}' if place[1] else ''}; number repeats in a column repeat_index, "
                f"tell groups apart in {', '.join(GROUPING)}, or give other texts another prompt_id and one cluster_id"
            )
        cells[place] = verdict
    orders = sorted({verdict.order for verdict in verdicts})
    asked = sorted({(verdict.prompt_id, verdict.repeat_index) for verdict in verdicts})
    prompts = [prompt for prompt, _ in asked]
    if len({(prompt, order) for prompt, _, order in cells}) == len(set(prompts)):
        own_order = {prompt: order for prompt, _, order in cells}
        rows = [[cells[prompt, repeat, own_order[prompt]] for prompt, repeat in asked]]
    else:
        rows = [[cells.get((prompt, repeat, order)) for prompt, repeat in asked] for order in orders]  # type: ignore[misc]
    comparisons = Comparisons(
        np.array(prompts),
        np.array(_clusters(verdicts, prompts, path)),
        np.unique(np.array(prompts), return_inverse=True)[1],
        np.array([[math.nan if cell is None else cell.score for cell in row] for row in rows]),
        [[None if cell is None else cell.label for cell in row] for row in rows],
        np.array([_lengths(name, verdicts, prompts, path) for name in ("candidate_length", "opponent_length")]),
    )
    unscored = [sum(cell is not None and math.isnan(cell.score) for cell in column) for column in zip(*rows, strict=True)]
    return Group(key, orders, comparisons, np.array(unscored, dtype=np.intp))


def _clusters(verdicts: list[Verdict], prompts: list[str], path: Path) -> list[str]:
    """The cluster of each prompt: the prompt itself when the file names none."""
    found: dict[str, str] = {}
    for verdict in verdicts:
        if verdict.cluster_id is not None and found.setdefault(verdict.prompt_id, verdict.cluster_id) != verdict.cluster_id:
            raise InputError(
                f"expected one cluster_id per prompt in {path}, found {found[verdict.prompt_id]!r} and {verdict.cluster_id!r} "
                f"for prompt {verdict.prompt_id!r}; correct one of them"
            )
    without = [prompt for prompt in prompts if prompt not in found]
    if found and without:
        raise InputError(
            f"expected a cluster_id for every prompt in {path}, found none for prompt {without[0]!r}; fill or drop the column"
        )
    return [found[prompt] for prompt in prompts] if found else prompts


def _lengths(name: str, verdicts: list[Verdict], prompts: list[str], path: Path) -> list[float]:
    """The length of each prompt's text; both orders and all repeats show the same text."""
    found: dict[str, float] = {}
    for verdict in verdicts:
        value = getattr(verdict, name)
        if not math.isnan(value) and found.setdefault(verdict.prompt_id, value) != value:
            raise InputError(
                f"expected one {name} per prompt in {path}, found {found[verdict.prompt_id]:g} and {value:g} for prompt "
                f"{verdict.prompt_id!r}; give different texts different prompt_ids and one cluster_id"
            )
    return [found.get(prompt, math.nan) for prompt in prompts]
