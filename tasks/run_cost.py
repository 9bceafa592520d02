"""What a run took, by stage: seconds, tokens, requests and money; what it found complete already is told apart.

Requests and money are those that were really sent and billed: a reply that was stored before costs nothing again.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from storage.artifact import Artifact
from storage.makers import Makers
from storage.results_db import run_query
from storage.runs import read_runs

Row = dict[str, Any]
_TOKENS = """SELECT artifact, sum(num_tokens)::BIGINT AS tokens FROM completions GROUP BY artifact
UNION ALL SELECT artifact, sum(value)::BIGINT FROM training_log WHERE name = 'tokens' AND isfinite(value) GROUP BY artifact"""


class StageCost(NamedTuple):
    """What the calls of one stage took; None = not measured."""

    stage: str
    made: int  # artifacts
    found: int  # artifacts that were complete already
    seconds: float | None
    tokens: int | None  # trained on, written, or asked of and answered by a judge's address
    requests: int | None
    cost: float | None  # in the currency of the judge's prices; None also without prices


class RunCost(NamedTuple):
    """The stages in the order of their first call, and what the artifacts found complete had cost whoever made them."""

    stages: list[StageCost]
    found_requests: int
    found_cost: float


def cost_of_run(home: Path, record: Mapping[str, Any], artifacts: Iterable[Artifact]) -> RunCost:
    """The cost of a recorded run whose artifacts are given and published."""
    known = {f"{one.stage}/{one.fingerprint}": one for one in artifacts}
    makers = Makers(read_runs(home))
    made = {name for name, one in known.items() if (makers.run_of(one) or {}).get("run_id") == record["run_id"]}
    tokens = {row["artifact"]: row["tokens"] for row in run_query(home, _TOKENS).to_pylist()}
    stages, counted = [], set[str]()
    for stage, calls in _calls_by_stage(record, known).items():
        names = [name for name in dict.fromkeys(name for call in calls for name in call["artifacts"]) if name in known]
        fresh = [known[name] for name in names if name in made and name not in counted]
        timed = [call["seconds"] for call in calls if call["seconds"] is not None]  # not one whose process was killed
        seconds = sum(timed) if timed else None
        stages.append(_stage_cost(stage, fresh, len([one for one in names if one not in made]), seconds, tokens))
        counted.update(names)
    paid = [known[name].info.get("spent") or {} for name in known if name not in made]
    return RunCost(stages, sum(one.get("requests", 0) for one in paid), sum(one.get("cost", 0.0) for one in paid))


def _calls_by_stage(record: Mapping[str, Any], known: Mapping[str, Artifact]) -> dict[str, list[Row]]:
    """The record's timings by stage; of a record without timings the artifacts, which took nobody knows how long."""
    untimed: list[Row] = [{"stage": one.stage, "seconds": None, "artifacts": [name]} for name, one in known.items()]
    calls: dict[str, list[Row]] = {}
    for call in record.get("timings") or untimed:
        calls.setdefault(call["stage"], []).append(call)
    return calls


def _stage_cost(stage: str, fresh: Sequence[Artifact], found: int, seconds: float | None, tokens: Mapping[str, int]) -> StageCost:
    spent = [one.info["spent"] for one in fresh if one.info.get("spent")]
    asked = sum(one.get("tokens", 0) for one in spent)
    own = [tokens[one.fingerprint] for one in fresh if tokens.get(one.fingerprint) is not None]
    cost = sum(one.get("cost", 0.0) for one in spent)
    return StageCost(
        stage,
        made=len(fresh),
        found=found,
        seconds=seconds,
        tokens=asked + sum(own) if spent or own else None,
        requests=sum(one.get("requests", 0) for one in spent) if spent else None,
        cost=cost if cost else None,
    )
