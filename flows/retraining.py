"""The order of the stages of a retraining, without Prefect: what is new, a challenger, two comparisons, one decision.

    new pairs? ─no→ NothingNew
        └yes→ challenger ─→ screening prompts ─fails→ rejected
                                 └passes→ a look is entered in the registry ─→ confirmation prompts ─→ promoted or rejected

Killed half-way and run again it goes on: stages skip what is complete, a look is taken once for the same texts, and a decision
once for the same attempt. `flows/retrain.py` is the same in the Prefect UI.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flows.endings import ending_of
from flows.evaluation_sets import judge_sets, look_where_asked
from flows.pipeline import check_at_once, locate_sources
from flows.recorded_run import run_with_record
from flows.training_stages import Stage, make_reference, train_against
from srpo_core.errors import InputError
from srpo_core.judging.request_limits import Spent
from srpo_core.scoring.promotion import spend_level
from srpo_core.settings.retraining import RetrainSettings
from storage.artifact import Artifact
from storage.registry import find_champion, record_decision, record_look
from storage.runs import read_run, record_run
from tasks.demonstrations import ingest_demonstrations
from tasks.generation import generate_completions
from tasks.judging import judge_completions
from tasks.preferences import ingest_preferences
from tasks.prompts import has_gold, ingest_prompts
from tasks.publishing import publish_results
from tasks.retraining.comparison import Evaluated, check_clusters, check_start, compare_policies, curves_of
from tasks.retraining.prompt_parts import PARTS, Part, split_prompts
from tasks.retraining.proposal import Proposal, comparison_values
from tasks.retraining.standing import Standing, find_begun, find_standing, identify_look

logger = logging.getLogger("srpo")
Row = dict[str, Any]


class Approval(NamedTuple):
    """What a person said to a challenger that passed."""

    granted: bool
    note: str


class Outcome(NamedTuple):
    """How a retraining ended."""

    event: str  # nothing_new, promoted or rejected
    message: str
    run_id: str | None = None
    proposal: Proposal | None = None
    entry: Row | None = None


Approve = Callable[[Proposal, str], Approval]  # proposal, run id


def retrain(
    settings: RetrainSettings,
    home: Path,
    stage: Stage,
    *,
    approve: Approve | None = None,
    is_open: Callable[[str], bool] = lambda _: False,
    prefect_run: str | None = None,
    deployment: str | None = None,
) -> Outcome:
    """Look for new pairs, train and compare a challenger, and enter the decision in the registry.

    `approve` asks a person about a challenger that passed; it may leave by an exception and be asked again by the next call.
    `is_open` tells of a Prefect run whether it may still go on: beside one that has looked and not decided, nothing is trained.
    Raises InputError and WorkFailed as the stages do.
    """
    check_at_once(settings.pipeline)
    if settings.promotion.require_approval and approve is None:
        raise InputError(
            "expected a deployment's run to suspend for promotion.require_approval, found none; start the deployment in the UI"
        )
    begun = find_begun(home, prefect_run)
    if begun.decision is not None:
        with _ending_recorded(begun.decision["run_id"], home):
            return _publish(_outcome(begun.decision), home, stage)
    preferences = begun.preferences
    if preferences is None:
        preferences = stage(ingest_preferences)(locate_sources(settings.pipeline, home, stage).preferences, home)
    standing = find_standing(settings, preferences, home, prefect_run=prefect_run, is_open=is_open)
    if standing.nothing_new is not None:
        return Outcome("nothing_new", standing.nothing_new)
    logger.info("%d of %d pairs are new: training a challenger", standing.changes.new, preferences.counts["pairs"])
    proposals: list[Proposal] = []
    about = {"prefect_run": prefect_run, "deployment": deployment}

    def body(kept: Stage) -> None:
        proposals.append(_propose(settings, preferences, standing, home, kept, about))

    run_id = run_with_record(body, settings.pipeline, home, stage, used=[preferences], **about)
    with _ending_recorded(run_id, home):
        entry = _decide(proposals[0], run_id, home, approve if settings.promotion.require_approval else None, about)
        return _publish(_outcome(entry, proposals[0]), home, stage)


def _outcome(entry: Row, proposal: Proposal | None = None) -> Outcome:
    word = "Promoted" if entry["event"] == "promoted" else "Rejected"
    return Outcome(entry["event"], f"{word} {entry['policy_id']}: {entry['reason']}", entry["run_id"], proposal, entry)


@contextmanager
def _ending_recorded(run_id: str, home: Path) -> Iterator[None]:
    """What comes behind the last stage is in the run's record too: how that ended, or that a person is asked."""
    state, sentence = "completed", None
    try:
        yield
    except BaseException as error:
        state, sentence = ending_of(error)
        raise
    finally:
        record = read_run(home, run_id)
        if record["state"] != state:
            kept = ("settings", "prefect_run", "prefect_page", "deployment", "started_at", "timings")
            known = {name: record[name] for name in kept}
            record_run(home, run_id, state=state, failure=sentence, artifacts=[], earlier=record["stages"], **known)


def _publish(outcome: Outcome, home: Path, stage: Stage) -> Outcome:
    """Once more, so that SQL knows the registry's newest entry."""
    stage(publish_results)(home)
    return outcome


def _propose(
    settings: RetrainSettings, preferences: Artifact, standing: Standing, home: Path, stage: Stage, about: Row
) -> Proposal:
    pipeline, promotion = settings.pipeline, settings.promotion
    sources = locate_sources(pipeline, home, stage)
    prompts = [stage(ingest_prompts)(one, home) for one in sources.evaluation]
    parts = {part: [stage(split_prompts)(one, part, promotion.confirmation_share, home) for one in prompts] for part in PARTS}
    check_clusters([one for part in PARTS for one in parts[part]], promotion.min_clusters)
    demonstrations = None
    if pipeline.supervised is not None:
        demonstrations = stage(ingest_demonstrations)(sources.demonstrations, home, preferences)
    reference = make_reference(pipeline, preferences, demonstrations, home, stage)
    champion = find_champion(home)
    start = champion if settings.start_from == "champion" else None
    if start is not None:
        check_start(start, reference)
    work: Row = {"model": pipeline.model, "resources": pipeline.resources, "home": home}
    (challenger,) = train_against(reference, preferences, prompts, pipeline.method_settings(), stage, start=start, **work)
    against, judging = champion or reference, {"resources": pipeline.resources, "spent": Spent()}

    def evaluate(part: Part) -> list[Evaluated]:
        return _evaluate(challenger, against, parts[part], settings, home, stage, judging)

    compared = partial(compare_policies, settings=promotion, revision=settings.revision_index)
    seen = evaluate("screening")
    curves, confirmation, look = {"screening": curves_of(seen)}, None, None
    screening = compared(seen, level=promotion.screening_level)
    if screening.passed:
        level_of = partial(spend_level, total=promotion.total_error_level)
        told = {"policy_id": challenger.fingerprint, "by": "retrain", "reason": f"screening passed: {screening.reason}"}
        told["evidence"] = json.dumps({"preferences": preferences.fingerprint, "screening": comparison_values(screening)})
        key = identify_look(standing.attempt, [challenger, against], parts["confirmation"])
        look = record_look(home, key, level_of, told | about)
        seen = evaluate("confirmation")
        confirmation = compared(seen, level=look["level"])
        curves["confirmation"] = curves_of(seen)
    return Proposal(challenger, against, standing, screening, confirmation, look, curves)


def _evaluate(
    challenger: Artifact,
    champion: Artifact,
    prompts: list[Artifact],
    settings: RetrainSettings,
    home: Path,
    stage: Stage,
    judging: Row,
) -> list[Evaluated]:
    """Texts of both policies on the same prompts and what the same judge says of them: against the gold, or head to head."""
    pipeline = settings.pipeline
    work = {"model": pipeline.model, "resources": pipeline.resources, "home": home}
    texts = stage(generate_completions)([challenger, champion], prompts, pipeline.generation, **work)
    sets = list(zip(prompts, texts[: len(prompts)], texts[len(prompts) :], strict=True))
    with_gold = [one for one in sets if has_gold(one[0])]
    by_digest = {one.digest: one for one in prompts}
    sides = [one[1] for one in with_gold] + [one[2] for one in with_gold]
    games = judge_sets(sides, by_digest, pipeline.judge, home, stage, **judging)
    of_challenger = dict(zip((one.digest for one, _, _ in with_gold), games[: len(with_gold)], strict=True))
    of_champion = dict(zip((one.digest for one, _, _ in with_gold), games[len(with_gold) :], strict=True))
    evaluated = []
    for own, challengers, champions in sets:
        found = of_challenger.get(own.digest)
        if found is None:
            meets = {"opponents": champions, "opponent_revision_index": settings.revision_index, **judging}
            found = stage(judge_completions)(challengers, [own], pipeline.judge, home, **meets)
        evaluated.append(Evaluated(own, challengers, champions, found, of_champion.get(own.digest)))
    look_where_asked(texts, prompts, pipeline.judge, home, stage, **judging)
    return evaluated


def _decide(proposal: Proposal, run_id: str, home: Path, approve: Approve | None, about: Row) -> Row:
    """Ask a person if need be, and enter the decision; once for the same attempt."""
    passed, by, reason = proposal.passed, "retrain", proposal.reason
    if passed and approve is not None:
        approval = approve(proposal, run_id)
        passed, by = approval.granted, "approval"
        note = f" ({approval.note.strip()})" if approval.note.strip() else ""
        reason = f"a person {'approved' if approval.granted else 'refused'}{note}; {reason}"
    look = proposal.look or {"comparison": None, "level": None}
    told = about | {
        "policy_id": proposal.challenger.fingerprint,
        "by": by,
        "reason": reason,
        "run_id": run_id,
        "comparison": look["comparison"],
        "level": look["level"],
        "evidence": proposal.evidence(),
    }
    key, event = f"decision:{proposal.standing.attempt}", "promoted" if passed else "rejected"
    entry = record_decision(home, key, event, told, against=proposal.standing.champion_id)
    if (entry["event"], entry["prefect_run"]) != (event, about["prefect_run"]):
        raise InputError(
            f"expected no decision on this attempt yet, found entry {entry['entry']} of the registry, {entry['event']}: another "
            "run decided meanwhile, and this one changes nothing; start it again for what is new since"
        )
    return entry
