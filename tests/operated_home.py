"""A home with a history: four runs, a registry, dated artifacts and verdicts whose every answer can be worked out by hand.

`old` (ten days ago) made the data and the supervised policy; `new` (two days ago) used them again, trained srpo and judged it;
`broken` (yesterday) failed; `gone` (forty days ago) left a record that says running and no process.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from storage import schemas
from storage.artifact import Artifact
from tests.homes import (
    date_artifact,
    message,
    put,
    put_completions,
    put_games,
    put_policy,
    put_prompts,
    put_registry,
    put_run,
)

NOW = datetime.now(UTC)
DEPLOYMENT = "weekly-retrain"
FAILURE = "train policies: srpo: expected a device, found none"
PRICE = 0.01  # of a game in the judge's currency


def at(days_ago: float, seconds: float = 0) -> str:
    """A moment before now, as records state it."""
    return (NOW - timedelta(days=days_ago) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def scored(policy: str, revision: int, number: int, order: str) -> float | None:
    """Prompt 0 gets worse with each revision, 1 is won by revising, 2 goes by the order, 3 is won and once not scored."""
    if number == 3:
        return None if (revision, order) == (0, "swapped") else 1.0
    return ((1.0, 0.5, 0.0)[revision], float(revision > 0), float(order == "as_is"))[number]


def make_operated_home(home: Path) -> dict[str, Artifact]:
    """Fill `home`; returns its artifacts by name."""
    made = _data(home)
    made["sft"] = put_policy(home, "sft", "sft", {"preferences": made["preferences"]})
    parents = {"preferences": made["preferences"], "reference": made["sft"], "contamination": made["contamination"]}
    made["srpo"] = put_policy(home, "srpo", "srpo", parents, beta=0.1, counts={"pairs": 3, "pairs_too_long": 1})
    for name in ("id", "long"):
        made[f"texts of {name}"] = put_completions(home, made["srpo"], made[name], 2)
    made["games of id"] = put_games(home, made["texts of id"], made["id"], scored, judge="asked", cost=PRICE)
    made["games of long"] = put_games(home, made["texts of long"], made["long"], lambda *_: 0.0, judge="asked", cost=PRICE)
    _date(made)
    _record_runs(home, made)
    _record_champions(home, made)
    return made


def _data(home: Path) -> dict[str, Artifact]:
    made: dict[str, Artifact] = {}
    for index, rows in enumerate((3, 4)):
        settings = {"name": f"file-{index}.jsonl", "sha256": f"hash-{index}"}
        counts = {"rows_read": rows, "pairs": rows - index, "rejected_rows": index}
        made[f"source {index}"] = put(home, "sources", {}, settings=settings, counts=counts)
    pairs = [
        {"pair_id": f"pair-{i}", "prompt": message(f"? {i}"), "chosen": "good", "rejected": "bad", "preference": 1.0}
        | {"num_votes": 1, "source": "s", "domain": "desk", "split": "train", "cluster_id": f"c{i}"}
        for i in range(5)
    ]
    parents = {f"source-0000{index}": made[f"source {index}"] for index in range(2)}
    counts = {"rows_read": 7, "pairs": 5, "rejected_rows": 1, "merged_duplicates": 1}
    made["preferences"] = put(home, "preferences", {"part": (pairs, schemas.PREFERENCES)}, parents=parents, counts=counts)
    made |= {name: put_prompts(home, name, domain, size) for name, domain, size in (("id", "desk", 4), ("long", "archive", 3))}
    made["spare"] = put_prompts(home, "spare", "desk", 1)  # made by no recorded run
    found = [("pair-0", "id-1", "prompt"), ("pair-1", "id-1", "prompt"), ("pair-1", "id-2", "passage")]
    overlaps = [{"pair_id": pair, "prompt_id": prompt, "kind": kind} for pair, prompt, kind in found]
    made["contamination"] = put(
        home,
        "contamination",
        {"part": (overlaps, schemas.CONTAMINATION)},
        parents={"preferences": made["preferences"], "prompts-00000": made["id"], "prompts-00001": made["long"]},
        counts={"pairs_read": 5, "contaminated_pairs": 2, "overlaps": 3},
    )
    return made


def _date(made: dict[str, Artifact]) -> None:
    date_artifact(made["spare"], at(20))
    old = ("source 0", "source 1", "preferences", "id", "long", "contamination", "sft")
    for place, name in enumerate(old, start=1):
        date_artifact(made[name], at(10, 10 * place))
    seconds = {"srpo": 60, "texts of id": 90, "texts of long": 100, "games of id": 130, "games of long": 190}
    for name, offset in seconds.items():
        date_artifact(made[name], at(2, offset))


def _record_runs(home: Path, made: dict[str, Artifact]) -> None:
    shared = [made[name] for name in ("preferences", "id", "long", "contamination", "sft")]
    own = [made[name] for name in ("srpo", "texts of id", "texts of long", "games of id", "games of long")]
    settings = {"name": "demo", "training": {"beta": 0.3, "seed": 0}, "methods": ["srpo"]}
    changed = settings | {"training": {"beta": 0.1, "seed": 0}, "methods": ["srpo", "dpo"]}
    old, new = {"deployment": DEPLOYMENT, "settings": settings}, {"deployment": DEPLOYMENT, "settings": changed}
    data = [_timing("ingest preferences", 20, shared[:1]), _timing("ingest prompts", 0, shared[1:3])]
    trained = [_timing("find contamination", 10, shared[3:4]), _timing("train reference", 60, shared[4:])]
    judged = [_timing("judge completions", 40, own[3:4]), _timing("judge completions", 50, own[4:])]
    again = [_timing("train policies", 60, own[:1]), _timing("generate completions", 40, own[1:3]), *judged]
    quick = [one | {"seconds": 0.0} for one in (*data, *trained)]
    put_run(home, "old", shared, started_at=at(10), recorded_at=at(10, 75), timings=data + trained, **old)
    started = {"started_at": at(2), "recorded_at": at(2, 195), "prefect_run": "p-new", "git_commit": "abc"}
    put_run(home, "new", [*shared, *own], timings=quick + again, **started, **new)
    failed = {"state": "failed", "failure": FAILURE, "started_at": at(1), "recorded_at": at(1, 5)}
    broken = [quick[0], _timing("train policies", 3, [])]
    put_run(home, "broken", [made["preferences"], made["spare"]], timings=broken, **failed, **new)
    put_run(home, "gone", state="running", started_at=at(40), recorded_at=at(40))
    (home / "runs" / ".gone.lock").touch()  # that no process holds


def _timing(stage: str, seconds: float, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    return {"stage": stage, "seconds": seconds, "artifacts": [f"{one.stage}/{one.fingerprint}" for one in artifacts]}


def _record_champions(home: Path, made: dict[str, Artifact]) -> None:
    sft, srpo = made["sft"].fingerprint, made["srpo"].fingerprint
    put_registry(
        home,
        {"event": "promoted", "policy_id": sft, "at": at(9), "by": "command", "reason": "first"},
        {"event": "rejected", "policy_id": "dpo-1", "at": at(8), "by": "retrain", "reason": "no better"},
        {"event": "promoted", "policy_id": srpo, "at": at(1.9), "by": "retrain", "reason": "better", "run_id": "new"},
        {"event": "rejected", "policy_id": "dpo-2", "at": at(1), "by": "retrain", "reason": "longer texts"}
        | {"evidence": '{"n": 4}'},
    )
