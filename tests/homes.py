"""A home of small artifacts whose every number can be derived by hand, for tests of what is published from artifacts."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage import parquet, schemas
from storage.artifact import Artifact, canonical_json, hash_of, list_artifacts, writing

WORDS = "storm port strike vote fire court bridge snow market train river school bank road mine dam".split()
# (policy, revision, prompt number, order) -> score in [0, 1], or None for a verdict without a score
Scores = Callable[[str, int, int, str], float | None]


def put(
    home: Path,
    stage: str,
    parts: Mapping[str, tuple[list[dict[str, Any]], pa.Schema]],
    *,
    settings: Mapping[str, Any] | None = None,
    parents: Mapping[str, Artifact] | None = None,
    info: Mapping[str, Any] | None = None,
    counts: Mapping[str, int] | None = None,
) -> Artifact:
    """Write one complete artifact with a part for every prefix in `parts`."""
    settings, parents = dict(settings or {}), dict(parents or {})
    fingerprint = hash_of(
        [stage, settings, {name: p.fingerprint for name, p in parents.items()}, sorted(parts), dict(info or {})]
    )
    with writing(home, stage, fingerprint, version=1, settings=settings, parents=parents) as writer:
        files = []
        for prefix, (rows, schema) in parts.items():
            files.append(writer.part_path(0, prefix))
            parquet.write_rows(files[-1], rows, schema)
        return writer.complete(files, counts=counts, info=info)


def message(text: str) -> list[dict[str, str]]:
    """A prompt of one user turn."""
    return [{"role": "user", "content": text}]


def put_preferences(home: Path, domain: str = "desk", **settings: Any) -> Artifact:
    """Two pairs of one domain, and two rows that could not be used."""
    pairs = [
        {"pair_id": f"pair-{i}", "prompt": message("?"), "chosen": "a", "rejected": "b", "preference": 1.0, "num_votes": 1}
        | {"source": "s", "domain": domain, "split": "train", "cluster_id": f"c{i}"}
        for i in range(2)
    ]
    rejected = [{"file": "f.jsonl", "line": i, "reason": "empty completion", "row": "{}"} for i in (3, 9)]
    return put(
        home,
        "preferences",
        {"part": (pairs, schemas.PREFERENCES), "rejected": (rejected, schemas.REJECTED_ROWS)},
        settings={"domain": domain} | settings,
        counts={"rows_read": 4, "pairs": 2, "rejected_rows": 2},
    )


def put_prompts(home: Path, eval_set: str, domain: str, size: int, golds: int = 1, clusters: int | None = None) -> Artifact:
    """`size` prompts, each with `golds` gold texts."""
    rows = [
        {
            "prompt_id": f"{eval_set}-{i}",
            "prompt": message(f"{eval_set} <b>{i}</b> & more"),
            "gold": [f"gold {g} of {i}" for g in range(golds)],
        }
        | {"eval_set": eval_set, "domain": domain, "cluster_id": f"{eval_set}-{i % clusters if clusters else i}"}
        for i in range(size)
    ]
    return put(home, "prompts", {"part": (rows, schemas.PROMPTS)}, settings={"name": eval_set, "golds": golds, "size": size})


def put_policy(
    home: Path,
    name: str,
    method: str,
    parents: Mapping[str, Artifact],
    *,
    seed: int | None = 0,
    counts: Mapping[str, int] | None = None,
    **settings: Any,
) -> Artifact:
    """A policy whose training log falls from 1 in ten logged steps."""
    values = {"loss": lambda s: 1 / (1 + s), "learning_rate": lambda s: 1e-4 * (1 - s / 10), "grad_norm": lambda s: 1.0}
    log = [{"step": step * 10, "name": key, "value": value(step)} for step in range(10) for key, value in values.items()]
    described = {"method": method, "settings": {"seed": seed, "learning_rate": 1e-4, "alpha": 2 / 3} | settings}
    parts = {} if method == "hub" else {"training_log": (log, schemas.TRAINING_LOG)}
    return put(
        home,
        "policies",
        parts,
        settings={"method": "hub"} if method == "hub" else described,
        parents=parents,
        info={"name": name},
        counts=counts,
    )


def put_completions(
    home: Path, policy: Artifact, prompts: Artifact, revisions: int, temperature: float = 1.0, **settings: Any
) -> Artifact:
    """A chain of texts per prompt; each revision adds a word, except the last, which repeats its draft."""
    rows: list[dict[str, Any]] = []
    for prompt in prompts.rows():
        words, parent = [policy.info["name"], *random.Random(prompt["prompt_id"]).sample(WORDS, 4)], None
        for revision in range(revisions + 1):
            words = (
                words
                if revision == revisions and revision
                else [*words, WORDS[(revision * 5 + len(prompt["prompt_id"])) % len(WORDS)]]
            )
            identity = f"{policy.fingerprint[:6]}/{prompt['prompt_id']}/{temperature}/{revision}"
            rows.append(
                {"completion_id": identity, "prompt_id": prompt["prompt_id"], "policy_id": policy.fingerprint, "sample_index": 0}
                | {"revision_index": revision, "parent_id": parent, "text": " ".join(words), "num_tokens": len(words)}
                | {"finish_reason": "stop", "prompt_truncated": False, "seed": 1, "temperature": temperature}
            )
            parent = identity
    generation = {"temperature": temperature, "top_p": 1.0, "max_new_tokens": 64, "num_revisions": revisions} | settings
    return put(
        home,
        "completions",
        {"part": (rows, schemas.COMPLETIONS)},
        settings=generation,
        parents={"policy": policy, "prompts": prompts},
    )


def put_games(
    home: Path,
    completions: Artifact,
    prompts: Artifact,
    score: Scores,
    *,
    judge: str = "rule",
    opponents: Artifact | None = None,
    cost: float | None = None,
    **settings: Any,
) -> Artifact:
    """Every completion against every gold, or against the opponents' text of revision 0, in both orders; `cost` of each game."""
    policies = {p.fingerprint: p.info["name"] for p in _policies(home)}
    golds = {p["prompt_id"]: [f"gold:{i}" for i in range(len(p["gold"]))] for p in prompts.rows()}
    if opponents is not None:
        golds = {c["prompt_id"]: [c["completion_id"]] for c in opponents.rows() if c["revision_index"] == 0}
    rows = []
    for completion in completions.rows():
        number = int(completion["prompt_id"].rsplit("-", 1)[1])
        for opponent in golds[completion["prompt_id"]]:
            for order in ("as_is", "swapped"):
                value = score(policies[completion["policy_id"]], completion["revision_index"], number, order)
                rows.append(_game(completion, opponent, order, value, judge) | {"cost": cost})
    parents = {"completions": completions, "prompts:0": prompts} | ({"opponents": opponents} if opponents else {})
    return put(
        home,
        "games",
        {"part": (rows, schemas.GAMES)},
        settings={"judge": {"kind": judge} | settings, "opponent_revision_index": 0},
        parents=parents,
    )


def _policies(home: Path) -> list[Artifact]:
    return list_artifacts(home, "policies")


def _game(completion: Mapping[str, Any], opponent: str, order: str, score: float | None, judge: str) -> dict[str, Any]:
    outcome = "unscored" if score is None else "tie" if score == 0.5 else "win" if score > 0.5 else "loss"
    return {
        "game_id": f"{completion['completion_id']}|{opponent}|{order}|{judge}",
        "prompt_id": completion["prompt_id"],
        "candidate": completion["completion_id"],
        "opponent": opponent,
        "order": order,
        "outcome": outcome,
        "score": score,
        "unscored_reason": "no label in the reply" if score is None else None,
        "judge": judge,
        "request_hash": f"{completion['completion_id']}{opponent}{order}",
        "repeat_index": 0,
        "model_answered": None,
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "seconds": 0.01,
    }


def graded(policy: str, revision: int, number: int, order: str) -> float | None:
    """Later revisions win on more prompts, srpo faster than the others; prompt 0 is unscored in one order."""
    if number == 0 and order == "swapped":
        return None
    share = {"srpo": 0.3 + 0.1 * revision, "dpo": 0.4 - 0.02 * revision, "sft": 0.25}[policy.split("-")[0]]
    hard = (number * 37 % 100) / 100
    return 1.0 if hard < share - (0.05 if order == "swapped" else 0) else 0.0


def make_home(home: Path, *, size: int = 20, revisions: int = 3) -> Path:
    """A reference, srpo and dpo on one in-distribution set and one shifted set, judged by rule against the gold."""
    preferences = put_preferences(home)
    sft = put_policy(home, "sft", "sft", {"preferences": preferences}, seed=0)
    policies = [sft]
    for name in ("srpo", "dpo"):
        policies.append(put_policy(home, name, name, {"preferences": preferences, "reference": sft}, seed=0, beta=0.1))
    for eval_set, domain in (("id", "desk"), ("long", "archive")):
        prompts = put_prompts(home, eval_set, domain, size)
        for policy in policies:
            put_games(home, put_completions(home, policy, prompts, revisions), prompts, graded)
    put_run(home, "run-1", git_commit="abc")
    return home


def put_diagnostics(home: Path) -> None:
    """Ceilings and the one-edit table of the srpo policy of `make_home`."""
    (srpo,) = (p for p in _policies(home) if p.info["name"] == "srpo")
    ceilings = [
        {
            "policy_id": srpo.fingerprint,
            "eval_set": eval_set,
            "beta": 0.1,
            "temperature": 1.0,
            "revision_index": k,
            "ceiling": 0.6 + 0.05 * k,
        }
        | {"ceiling_low": 0.55, "ceiling_high": 0.8, "reference_win_rate": 0.25}
        for eval_set in ("id", "long")
        for k in range(4)
    ]
    edits = [
        {"policy_id": srpo.fingerprint, "edit": "drop a wrong fact", "target": 3.3, "learned": 0.5, "n": 40, "sign_right": 0.66}
    ]
    put(
        home,
        "diagnostics",
        {"ceilings": (ceilings, schemas.CEILINGS), "one_edit": (edits, schemas.ONE_EDIT)},
        parents={"policy": srpo},
    )


def decode_again(home: Path) -> Path:
    """More of the set 'id' of `make_home` with three revisions: srpo and dpo decoded once more, shorter and with one revision,
    judged by rule; all of srpo's texts judged by a second judge, with whom they always win, and against dpo's short drafts."""
    prompts = next(p for p in list_artifacts(home, "prompts") if p.settings["name"] == "id")
    policies = {policy.info["name"]: policy for policy in _policies(home)}
    srpo, dpo = (put_completions(home, policies[name], prompts, 1, max_new_tokens=8) for name in ("srpo", "dpo"))
    for completions in (srpo, dpo):
        put_games(home, completions, prompts, lambda p, r, n, o: float(n % 5 < (3 if p == "srpo" else 2) + r))
    for completions in (srpo, put_completions(home, policies["srpo"], prompts, 3)):
        put_games(home, completions, prompts, lambda *_: 1.0, judge="model")
        put_games(home, completions, prompts, lambda *_: 0.5, opponents=dpo)
    return home


def put_audits(home: Path) -> None:
    """An audit of agreement, one of attacks and one look of the sentinel."""
    interval = {"standard_error": 0.1, "ci_low": 0.5, "ci_high": 0.9}
    measures = [{"judge": "rule", "measure": "agreement", "n": 20, "estimate": 0.7} | interval]
    rates = [{"judge": "rule", "attack": "all", "field": "all", "n_games": 20, "n_unscored": 2, "attack_rate": 0.7} | interval]
    look = {"sentinel": "s", "judge": "rule", "look_index": 5, "is_calibration": False, "n_asked": 20, "alarm": False}
    put(home, "audits", {"measures": (measures, schemas.AUDIT_MEASURES)})
    put(home, "audits", {"rates": (rates, schemas.ATTACK_RATES)})
    put(home, "sentinel_looks", {"look": ([look], schemas.SENTINEL_LOOKS)})


def put_equal_compute(home: Path) -> None:
    """One revision of the srpo policy of `make_home` against best of two by the judge that also scores."""
    (srpo,) = (p for p in _policies(home) if p.info["name"] == "srpo")
    key = {"policy_id": srpo.fingerprint, "eval_set": "id", "judge": "rule", "temperature": 1.0, "selector": "judge"}
    match = {"num_revisions": 1, "num_drafts": 2.0, "mean_tokens": 11.0, "n_scored": 20, "difference": -0.1}
    curve = [
        key
        | {"strategy": strategy, "selector": selector, "num_drafts": n, "num_revisions": k}
        | {"mean_tokens": 5.0 + 5 * n + 6 * k, "win_rate": 0.4 + 0.1 * n, "ci_low": 0.3, "ci_high": 0.8}
        for strategy, selector, n, k in (("revisions", None, 1, 0), ("revisions", None, 1, 1), ("best_of_n", "judge", 2, 0))
    ]
    parts = {"matches": ([key | match], schemas.EQUAL_COMPUTE_MATCHES), "curve": (curve, schemas.EQUAL_COMPUTE)}
    put(home, "equal_compute", parts, parents={"policy": srpo})


def put_run(home: Path, run_id: str, artifacts: Sequence[Artifact] = (), **facts: Any) -> None:
    """The record of a run that used `artifacts`; `facts` are put over a completed run that nobody's deployment started."""
    stages = [{"stage": a.stage, "fingerprint": a.fingerprint, "digest": a.digest} for a in artifacts]
    record = {"run_id": run_id, "state": "completed", "git_commit": "", "settings": {"name": "demo"}, "stages": stages} | facts
    parquet.write_json(_made(home / "runs") / f"{run_id}.json", record)


def put_registry(home: Path, *entries: Mapping[str, Any]) -> None:
    """The registry's record, with each entry numbered and its champions worked out from its event."""
    lines, champion = [], None
    for number, entry in enumerate(entries, start=1):
        after = {"promoted": entry["policy_id"], "rolled_back": entry.get("champion_id")}.get(entry["event"], champion)
        own = {"entry": number, "key": str(number), "champion_id": after, "previous_champion_id": champion}
        lines.append(canonical_json(dict.fromkeys(schemas.REGISTRY.names) | {"cumulative_level": 0.0} | dict(entry) | own))
        champion = after
    (_made(home / "registry") / "entries.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def date_artifact(artifact: Artifact, created_at: str) -> None:
    """Set when an artifact was completed, for answers that depend on it."""
    parquet.write_json(artifact.path / "manifest.json", artifact.manifest | {"created_at": created_at})


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
