"""A judge against people: it is asked about preference pairs whose label is known (stage `audits`).

The verdicts are kept beside the table made of them. A killed audit goes on where it stopped.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from srpo_core.errors import InputError
from srpo_core.judging.judges import JudgeGame, Verdict
from srpo_core.scoring.audit import Comparisons, LabelledVerdict, arrange, describe, measure_judge
from srpo_core.settings.judges import JudgeSettings
from srpo_core.settings.resources import Resources
from storage.artifact import Artifact, ArtifactWriter
from storage.journal import write_parts
from storage.schemas import AUDIT_MEASURES, AUDIT_VERDICTS
from tasks.audit_artifacts import AskedJudge, Decided, Row, complete_audit, count_unscored, write_table
from tasks.audit_games import Pair, both_orders, draw_preferences

VERSION = 1
MAX_REPEATS = 999  # repeat indices from 1000 on belong to the sentinel
_ROUND = "asked"


def audit_preferences(
    preferences: Artifact,
    settings: JudgeSettings,
    home: Path,
    *,
    max_pairs: int = 200,
    repeats: int = 1,
    seed: int = 0,
    resources: Resources | None = None,
) -> Artifact:
    """Ask the judge about `max_pairs` labelled pairs drawn by lot, both orders, `repeats` times each.

    Writes an artifact `audits` with the verdicts (parts `part-*`, table audit_verdicts) and what they say about the judge
    (`measures-*`, audit_measures). Raises InputError without pairs or for numbers out of range.
    """
    if max_pairs < 1 or not 1 <= repeats <= MAX_REPEATS:
        raise InputError(
            f"expected at least one pair and 1 to {MAX_REPEATS} repeats, found {max_pairs} and {repeats}; change --max-pairs or "
            "--repeats"
        )
    judge = AskedJudge(settings, home, resources)
    asked = {"kind": "agreement", "max_pairs": max_pairs, "repeats": repeats, "seed": seed}

    def work(writer: ArtifactWriter) -> Artifact:
        pairs = draw_preferences(preferences, max_pairs, seed)
        games = [game for pair in pairs for repeat in range(repeats) for game in both_orders(pair, repeat)]
        return _complete(writer, pairs, judge, judge.decide(games, writer.path / _ROUND))

    return complete_audit(preferences, judge, VERSION, asked, [_ROUND], work)


def arrange_audit(rows: Iterable[Row]) -> Comparisons:
    """Rows of the table audit_verdicts, of one judge, as they are measured."""
    return arrange(
        (
            LabelledVerdict(
                row["prompt_id"],
                row["order"],
                row["repeat_index"],
                float("nan") if row["score"] is None else row["score"],
                row["human"],
                row["cluster_id"],
                row["candidate_length"] - row["opponent_length"],
            )
            for row in rows
        ),
        "the audit",
    )


def _complete(writer: ArtifactWriter, pairs: Sequence[Pair], judge: AskedJudge, decided: Decided) -> Artifact:
    by_id = {pair.pair_id: pair for pair in pairs}
    rows = [_row(by_id[game.prompt_id], judge, game, verdict) for game, verdict in decided.values()]
    comparisons = arrange_audit(rows)
    measures = [{"judge": judge.name} | one._asdict() for one in measure_judge(comparisons)]
    files = [*write_parts(writer, rows, AUDIT_VERDICTS), write_table(writer, "measures", measures, AUDIT_MEASURES)]
    facts = describe(comparisons)
    counts = {"pairs": facts["n_pairs"], "labelled": facts["n_labelled"], "clusters": facts["n_clusters"]}
    info = {"judge": judge.name, "name": f"agreement of {judge.name}", "note": facts["note"]} | judge.facts
    return writer.complete(files, counts=counts | count_unscored(rows), info=info)


def _row(pair: Pair, judge: AskedJudge, game: JudgeGame, verdict: Verdict) -> Row:
    return judge.columns(game, verdict) | {
        "cluster_id": pair.cluster_id,
        "candidate": pair.candidate,
        "human": pair.human,
        "candidate_length": len(pair.candidate_text),
        "opponent_length": len(pair.opponent_text),
    }
