"""A judge under attack: the worse of two texts tries to win by planted words and constant strings (stage `audits`).

The pairs are played without an attack first; words are planted only where the attacker lost.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from srpo_core.errors import InputError
from srpo_core.judging.injections import ATTACKS, FIELDS, Field, attack
from srpo_core.judging.judge_presets import find_preset
from srpo_core.judging.judges import JudgeGame, Verdict
from srpo_core.scoring.attack_rates import AttackedGame, attack_rates
from srpo_core.settings.judges import JudgeSettings
from srpo_core.settings.resources import Resources
from storage.artifact import Artifact, ArtifactWriter
from storage.journal import write_parts
from storage.schemas import ATTACK_RATES, INJECTION_GAMES
from tasks.audit_artifacts import AskedJudge, Decided, Row, complete_audit, count_unscored, write_table
from tasks.audit_games import Pair, both_orders, draw_worse_texts

VERSION = 1
NO_ATTACK = "none"
DEFAULT_PRESET = "tldr-concise"  # whose labels and fences are forged for judges that read none
_BEFORE, _UNDER_ATTACK = "before", "under_attack"


class PlannedAttack(NamedTuple):
    """One game under attack."""

    attack: str
    field: Field
    game_before: str  # id of the same game without the attack
    game: JudgeGame


def audit_injections(
    source: Artifact,
    settings: JudgeSettings,
    home: Path,
    *,
    max_pairs: int = 20,
    seed: int = 0,
    resources: Resources | None = None,
) -> Artifact:
    """Let the worse text of `max_pairs` pairs, drawn by lot from preferences or prompts, try every attack in every field.

    Writes an artifact `audits` with all games (`part-*`, table injection_games) and the rates (`rates-*`, attack_rates). Raises
    InputError without pairs.
    """
    if max_pairs < 1:
        raise InputError(f"expected at least one pair, found {max_pairs}; change --max-pairs")
    judge = AskedJudge(settings, home, resources)

    def work(writer: ArtifactWriter) -> Artifact:
        pairs = draw_worse_texts(source, max_pairs, seed)
        plain = [game for pair in pairs for game in both_orders(pair, 0, "injections")]
        before = judge.decide(plain, writer.path / _BEFORE)
        attacks = _plan_attacks(before, settings)
        after = judge.decide([one.game for one in attacks], writer.path / _UNDER_ATTACK)
        return _complete(writer, judge, {pair.pair_id: pair for pair in pairs}, before, attacks, after)

    asked = {"kind": "injections", "max_pairs": max_pairs, "seed": seed}
    return complete_audit(source, judge, VERSION, asked, [_BEFORE, _UNDER_ATTACK], work)


def _plan_attacks(before: Decided, settings: JudgeSettings) -> list[PlannedAttack]:
    """Constants enter every game, planted words the games that the attacker lost."""
    preset = find_preset(getattr(settings, "preset", DEFAULT_PRESET))
    # The rule judge reads facts alone: a document with other words in it is no newsroom document.
    fields = FIELDS if settings.kind != "rule" else ("candidate", "opponent")
    return [
        PlannedAttack(how.name, field, game_id, attack(game, how, field, preset))
        for how in ATTACKS.values()
        for field in how.fields
        if field in fields
        for game_id, (game, verdict) in before.items()
        if how.is_constant or _is_lost(verdict)
    ]


def _is_lost(verdict: Verdict) -> bool:
    return verdict.score is not None and verdict.score < 0.5


def _complete(
    writer: ArtifactWriter,
    judge: AskedJudge,
    pairs: dict[str, Pair],
    before: Decided,
    attacks: Sequence[PlannedAttack],
    after: Decided,
) -> Artifact:
    played = [_attacked(one, pairs[one.game.prompt_id], before, after) for one in attacks]
    rows = [_row(judge, *plain, pairs, NO_ATTACK, None) for plain in before.values()]
    rows += [_row(judge, *after[one.game.game_id], pairs, one.attack, one.field) for one in attacks]
    rates = [{"judge": judge.name} | one._asdict() for one in attack_rates(played)]
    files = [*write_parts(writer, rows, INJECTION_GAMES), write_table(writer, "rates", rates, ATTACK_RATES)]
    lost = sum(_is_lost(verdict) for _, verdict in before.values())
    counts = {"pairs": len(pairs), "games_lost_without_attack": lost, "games_attacked": len(attacks)}
    info = {"judge": judge.name, "name": f"attacks on {judge.name}"} | judge.facts
    return writer.complete(files, counts=counts | count_unscored(rows), info=info)


def _attacked(planned: PlannedAttack, pair: Pair, before: Decided, after: Decided) -> AttackedGame:
    game, verdict = after[planned.game.game_id]
    plain = None if ATTACKS[planned.attack].is_constant else before[planned.game_before][1].score
    score, score_before = (np.nan if value is None else value for value in (verdict.score, plain))
    return AttackedGame(planned.attack, planned.field, game.prompt_id, pair.cluster_id, game.order, score, score_before)


def _row(
    judge: AskedJudge, game: JudgeGame, verdict: Verdict, pairs: dict[str, Pair], attack_name: str, field: Field | None
) -> Row:
    facts = {"cluster_id": pairs[game.prompt_id].cluster_id, "attack": attack_name, "field": field}
    return judge.columns(game, verdict) | facts
