"""Stages `sentinels` and `sentinel_looks`: frozen games that a judge is asked again and again, to notice when it changes.

The texts are drawn once and kept. Looks of one judge are numbered; the first `CALIBRATION_LOOKS` are made together and show the
judge's own repeat noise, each later one is tested against them (`srpo_core/scoring/drift.py`). Every look is an artifact that is
never changed. Its number is in the repeat index of its games, so no stored reply answers them: each look really asks.
"""

import logging
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from srpo_core.errors import InputError
from srpo_core.judging.judges import is_failed_call
from srpo_core.judging.request_limits import Spent
from srpo_core.scoring.drift import Drift, measure_drift
from srpo_core.scoring.win_rate import Floats
from srpo_core.settings.judges import JudgeSettings
from srpo_core.settings.resources import Resources
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, list_artifacts, writing
from storage.journal import write_parts
from storage.schemas import SENTINEL_GAMES, SENTINEL_LOOKS, SENTINEL_VERDICTS
from tasks.audit_artifacts import AskedJudge, Row, count_unscored, judged_by, write_table
from tasks.audit_games import Pair, both_orders, draw_completions, draw_preferences

VERSION = 1
CALIBRATION_LOOKS = 5
FIRST_REPEAT_INDEX = 1000  # smaller ones belong to games and audits of the same texts
_ROUND = "asked"
logger = logging.getLogger("srpo.judge")


class _Answers(NamedTuple):
    """The answers of one look, in the order of the frozen pairs, which never changes."""

    scores: Floats  # (G,); NaN = no score
    answered: list[bool]  # false where the call failed


def freeze_preferences(preferences: Artifact, home: Path, *, num_pairs: int = 50, seed: int = 0) -> Artifact:
    """Freeze `num_pairs` preference pairs drawn by lot as an artifact `sentinels`; the same call finds the same set again."""
    if num_pairs < 1:
        raise InputError(f"expected at least one pair to freeze, found {num_pairs}; change --max-pairs")
    drawing = partial(draw_preferences, preferences, num_pairs, seed)
    return _freeze(home, "preferences", num_pairs, seed, {"source": preferences}, drawing)


def freeze_completions(
    completions: Sequence[Artifact], prompts: Sequence[Artifact], home: Path, *, num_pairs: int, seed: int = 0
) -> Artifact:
    """Freeze `num_pairs` drafts and their gold texts drawn by lot as an artifact `sentinels`."""
    parents = {f"completions_{i}": one for i, one in enumerate(completions)} | {f"prompts_{i}": p for i, p in enumerate(prompts)}
    return _freeze(
        home, "completions", num_pairs, seed, parents, partial(draw_completions, completions, prompts, num_pairs, seed)
    )


def look_at_sentinel(
    completions: Sequence[Artifact],
    prompts: Sequence[Artifact],
    settings: JudgeSettings,
    home: Path,
    *,
    resources: Resources | None = None,
    spent: Spent | None = None,
) -> list[Artifact]:
    """Look once if the judge's `sentinel_games` is above 0; the first time freezes drafts of `completions` and calibrates.

    A home has one set of drafts for each `sentinel_games` and `sentinel_seed`, whichever run froze it.
    Returns the looks made: none, one, or all of the calibration. Raises InputError when no prompt has gold.
    """
    num_pairs = getattr(settings, "sentinel_games", 0) // 2
    if num_pairs == 0:
        return []
    drawn = {"num_pairs": num_pairs, "seed": getattr(settings, "sentinel_seed", 0)}
    wanted = drawn | {"drawn_from": "completions"}
    fitting = [one for one in list_artifacts(home, "sentinels") if wanted.items() <= one.settings.items()]
    sentinel = fitting[0] if fitting else freeze_completions(completions, prompts, home, **drawn)
    return look(sentinel, settings, home, resources=resources, spent=spent)


def look(
    sentinel: Artifact,
    settings: JudgeSettings,
    home: Path,
    *,
    resources: Resources | None = None,
    spent: Spent | None = None,
) -> list[Artifact]:
    """Ask all frozen games once more; the first time as often as the calibration needs. Logs a warning on an alarm.

    `spent` goes on counting against the judge's budget. Returns the looks made; raises what the judge raises.
    """
    known = {one.settings["look_index"] for one in list_looks(sentinel, settings, home)}
    missing = [index for index in range(sentinel.settings["calibration_looks"]) if index not in known]
    judge = AskedJudge(settings, home, resources, spent or Spent())
    if not known:
        logger.info("judge %s has not been asked these frozen games before: %d looks to calibrate", judge.name, len(missing))
    made = [_look(sentinel, judge, index) for index in missing or [max(known) + 1]]
    for one in made:
        _warn(read_look(one), sentinel)
    return made


def list_looks(sentinel: Artifact, settings: JudgeSettings, home: Path) -> list[Artifact]:
    """The complete looks of one judge at one frozen set, in their order."""
    judge = judged_by(settings)
    found = [
        one
        for one in list_artifacts(home, "sentinel_looks")
        if one.settings["judge"] == judge and one.manifest["parents"]["sentinel"]["fingerprint"] == sentinel.fingerprint
    ]
    return sorted(found, key=lambda one: one.settings["look_index"])


def read_look(artifact: Artifact) -> Row:
    """What a look found: its row of the table sentinel_looks."""
    return artifact.read(SENTINEL_LOOKS, prefix="look").to_pylist()[0]


def find_sentinel(home: Path) -> Artifact:
    """The only frozen set of a home. Raises InputError when there is none, or more than one to choose from."""
    frozen = list_artifacts(home, "sentinels")
    if len(frozen) != 1:
        found = ", ".join(one.fingerprint for one in frozen) or "none"
        raise InputError(
            f"expected one frozen set of games in {home}, found {found}; "
            "freeze one with --preferences ID, or name it with --frozen ID"
        )
    return frozen[0]


def _freeze(home: Path, drawn_from: str, num_pairs: int, seed: int, parents: dict[str, Artifact], draw: Any) -> Artifact:
    settings = {"drawn_from": drawn_from, "num_pairs": num_pairs, "seed": seed, "calibration_looks": CALIBRATION_LOOKS}
    fingerprint = compute_fingerprint("sentinels", VERSION, settings, parents)
    found = find_artifact(home, "sentinels", fingerprint)
    if found is not None:
        return found
    with writing(home, "sentinels", fingerprint, version=VERSION, settings=settings, parents=parents) as writer:
        if writer.artifact is not None:
            return writer.artifact
        rows = [{name: value for name, value in pair._asdict().items() if name != "human"} for pair in draw()]
        return writer.complete(write_parts(writer, rows, SENTINEL_GAMES), counts={"pairs": len(rows)}, info={"name": drawn_from})


def _look(sentinel: Artifact, judge: AskedJudge, index: int) -> Artifact:
    asked = {"judge": judged_by(judge.settings), "look_index": index}
    parents = {"sentinel": sentinel}
    fingerprint = compute_fingerprint("sentinel_looks", VERSION, asked, parents)
    with writing(judge.home, "sentinel_looks", fingerprint, version=VERSION, settings=asked, parents=parents) as writer:
        if writer.artifact is not None:
            return writer.artifact
        repeat = _next_repeat_index(judge)
        rows = _ask(sentinel, judge, repeat, writer.path)
        drift = _drift(rows, sentinel, judge) if index >= sentinel.settings["calibration_looks"] else None
        found = _describe(rows, sentinel, index) | (dict.fromkeys(Drift._fields) if drift is None else drift._asdict())
        return _complete(writer, [row | {"look_index": index} for row in rows], found, {"repeat_index": repeat} | judge.facts)


def _complete(writer: ArtifactWriter, rows: Sequence[Row], found: Row, facts: Row) -> Artifact:
    files = [*write_parts(writer, rows, SENTINEL_VERDICTS), write_table(writer, "look", [found], SENTINEL_LOOKS)]
    counts = {"games": found["n_asked"], "failed_calls": found["n_failed_calls"], "unscored": found["n_unscored"]}
    info = {"judge": found["judge"], "name": f"look {found['look_index']} of {found['judge']}"}
    artifact = writer.complete(files, counts=counts, info=info | facts)
    shutil.rmtree(artifact.path / _ROUND, ignore_errors=True)
    return artifact


def _next_repeat_index(judge: AskedJudge) -> int:
    """Above that of every look of the judge at any frozen set: sets may share texts, and no stored reply may answer a look."""
    identity = judged_by(judge.settings)
    looks = [one for one in list_artifacts(judge.home, "sentinel_looks") if one.settings["judge"] == identity]
    return max((one.info["repeat_index"] + 1 for one in looks), default=FIRST_REPEAT_INDEX)


def _ask(sentinel: Artifact, judge: AskedJudge, repeat: int, folder: Path) -> list[Row]:
    """The verdicts of one look, in the order of the frozen pairs, as_is before swapped."""
    pairs = [Pair(**row, human=None) for row in sentinel.rows()]
    games = [game for pair in pairs for game in both_orders(pair, repeat, "sentinel", sentinel.fingerprint)]
    return [judge.columns(game, verdict) for game, verdict in judge.decide(games, folder / _ROUND).values()]


def _describe(rows: Sequence[Row], sentinel: Artifact, index: int) -> Row:
    counts = count_unscored(rows)
    scores = [row["score"] for row in rows if row["score"] is not None]
    return {
        "sentinel": sentinel.fingerprint,
        "judge": rows[0]["judge"],
        "look_index": index,
        "is_calibration": index < sentinel.settings["calibration_looks"],
        "looked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "models_answered": _names(row["model_answered"] for row in rows),
        "system_fingerprints": _names(row["system_fingerprint"] for row in rows),
        "n_asked": counts["games"],
        "n_failed_calls": counts["failed_calls"],
        "n_unscored": counts["unscored"],
        "mean_score": float(np.mean(scores)) if scores else None,
    }


def _names(values: Iterable[str | None]) -> str | None:
    return ", ".join(sorted({value for value in values if value})) or None


def _drift(rows: Sequence[Row], sentinel: Artifact, judge: AskedJudge) -> Drift:
    """A look against the calibration."""
    known = list_looks(sentinel, judge.settings, judge.home)[: sentinel.settings["calibration_looks"]]
    looks = [_answers(list(one.rows())) for one in known]
    new = _answers(rows)
    return measure_drift([one.scores for one in looks], [one.answered for one in looks], new.scores, new.answered)


def _answers(rows: Sequence[Row]) -> _Answers:
    scores = np.array([np.nan if row["score"] is None else row["score"] for row in rows])
    return _Answers(scores, [not is_failed_call(row["unscored_reason"]) for row in rows])


def _warn(found: Row, sentinel: Artifact) -> None:
    if found["alarm"]:
        facts = {name: found[name] for name in ("shift", "shift_p_value", "flip_rate", "calibration_flip_rate", "flip_p_value")}
        logger.warning(
            "expected judge %s to answer as at its calibration, found more than its repeat noise at look %d: %s; win rates from "
            "before and after are not comparable: judge both sides anew, and calibrate on another set (%s)",
            found["judge"],
            found["look_index"],
            ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in facts.items() if value is not None),
            _way_to_another_set(sentinel),
        )


def _way_to_another_set(sentinel: Artifact) -> str:
    seed = sentinel.settings["seed"] + 1
    if sentinel.settings["drawn_from"] == "completions":
        return f"judge.sentinel_seed={seed}"
    return f"srpo audit --sentinel --preferences ID --seed {seed}"
