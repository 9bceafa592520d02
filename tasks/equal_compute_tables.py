"""From texts, verdicts and selectors' values to the tables of equal compute: every number comes from `srpo_core`.

All arrays are on one axis of prompts: those that have both a chain of revisions and drafts.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from srpo_core.records import ORDERS, cluster_of
from srpo_core.scoring.best_of_n import Match, best_of_n_scores, match_tokens
from srpo_core.scoring.comparisons import Comparisons, scores_by_prompt
from srpo_core.scoring.knockout import Bracket, knockout_scores
from srpo_core.scoring.win_rate import Floats, win_rate_interval, without_nan
from storage import schemas
from storage.artifact import Artifact

Row = dict[str, Any]


class Selector(NamedTuple):
    """One way of picking a draft, and what it picks."""

    name: str  # likelihood_sum, likelihood_mean, judge, reward_model or oracle
    selected_by: str | None  # the judge or model; None for the policy's own likelihood
    note: str | None  # what a reader must know
    scores: Floats  # (P, N) expected score of the best of n = column + 1


class Texts(NamedTuple):
    """What the policy generated, on one axis of prompts."""

    prompts: list[str]  # (P,)
    clusters: list[str]  # (P,)
    revised_scores: Floats  # (P, K + 1) of the draft and each revision, NaN where unscored
    revised_tokens: Floats  # (P, K + 1) generated up to and with that revision
    draft_ids: list[list[str]]  # (P, N) completion ids in the order of the samples
    draft_scores: Floats  # (P, N)
    draft_tokens: Floats  # (P,) mean of a prompt's drafts


def read_texts(prompts: Artifact, chains: Artifact, chain_games: Artifact, drafts: Artifact, draft_games: Artifact) -> Texts:
    """Chains, drafts and their scores against the gold; several chains of a prompt are averaged."""
    clusters = {row["prompt_id"]: cluster_of(row) for row in prompts.rows()}
    revisions, samples = _by_prompt(chains), _by_prompt(drafts)
    shared = [prompt_id for prompt_id in clusters if prompt_id in revisions and prompt_id in samples]
    chain_scores, draft_scores = completion_scores(chain_games), completion_scores(draft_games)
    draft_ids = [[row["completion_id"] for row in samples[name]] for name in shared]
    return Texts(
        shared,
        [clusters[name] for name in shared],
        np.array([_mean_over_chains(revisions[name], lambda row: chain_scores.get(row["completion_id"])) for name in shared]),
        np.cumsum([_mean_over_chains(revisions[name], lambda row: row["num_tokens"]) for name in shared], axis=1),
        draft_ids,
        np.array([[draft_scores.get(one, np.nan) for one in own] for own in draft_ids]),
        np.array([np.mean([row["num_tokens"] for row in samples[name]]) for name in shared]),
    )


def _by_prompt(completions: Artifact) -> dict[str, list[Row]]:
    columns = ["completion_id", "prompt_id", "sample_index", "revision_index", "num_tokens"]
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in completions.read(schemas.COMPLETIONS, columns=columns).to_pylist():
        rows[row["prompt_id"]].append(row)
    return {name: sorted(own, key=lambda row: (row["revision_index"], row["sample_index"])) for name, own in rows.items()}


def _mean_over_chains(rows: Sequence[Row], value: Any) -> list[float]:
    """Mean of `value` at each revision, over the chains that have one; NaN where none has."""
    found: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        number = value(row)
        found[row["revision_index"]] += [] if number is None or np.isnan(number) else [number]
    return [float(np.mean(own)) if own else float("nan") for own in found.values()]


def completion_scores(games: Artifact) -> dict[str, float]:
    """Score of each completion against its golds, made of orders, repeats and golds as every win rate is; NaN without one."""
    columns = ["candidate", "opponent", "order", "repeat_index", "score"]
    asked: dict[tuple[str, str, int], dict[str, float | None]] = defaultdict(dict)
    for row in games.read(schemas.GAMES, columns=columns).to_pylist():
        asked[row["candidate"], row["opponent"], row["repeat_index"]][row["order"]] = row["score"]
    scored = scores_by_prompt(_comparisons(asked))
    return dict(zip(scored.prompts.tolist(), scored.score.tolist(), strict=True))


def _comparisons(asked: Mapping[tuple[str, str, int], Mapping[str, float | None]]) -> Comparisons:
    """Askings by (candidate, opponent, repeat); the candidate stands in the place of the prompt."""
    candidates = np.array([candidate for candidate, _, _ in asked], dtype=np.str_)
    questions: dict[tuple[str, str], int] = {}
    numbers = [questions.setdefault((candidate, opponent), len(questions)) for candidate, opponent, _ in asked]
    scores = [[pair.get(order) for pair in asked.values()] for order in ORDERS]
    unknown = np.full((2, len(asked)), np.nan)
    labels = [[None] * len(asked)] * 2  # scores alone are asked for here
    return Comparisons(
        candidates, candidates, np.array(numbers, dtype=np.intp), np.array(scores, dtype=np.float64), labels, unknown
    )


def select_by_value(
    texts: Texts, values: Mapping[str, float | None], name: str, selected_by: str | None, note: str | None = None
) -> Selector:
    """Best of n by a number for each draft (by completion id), in closed form; a draft without a number comes last."""
    known = [[np.nan if values.get(one) is None else values[one] for one in own] for own in texts.draft_ids]
    return Selector(name, selected_by, note, best_of_n_scores(np.array(known, dtype=np.float64), texts.draft_scores))


def select_by_knockout(
    texts: Texts, winners: Mapping[str, Mapping[Bracket, int]], name: str, selected_by: str, note: str | None
) -> Selector:
    """The winners of knock-outs among n drafts; `winners` by prompt, drafts by their place."""
    rows = []
    for prompt_id, scores in zip(texts.prompts, texts.draft_scores, strict=True):
        single = {Bracket(place, 1): place for place in range(len(scores))}
        rows.append(knockout_scores(single | dict(winners.get(prompt_id, {})), scores))
    return Selector(name, selected_by, note, np.array(rows))


def curve_rows(texts: Texts, selectors: Sequence[Selector], key: Row) -> Iterator[Row]:
    """Rows of table `equal_compute`: revisions first, then each selector's best of n."""
    unselected = dict.fromkeys(("selector", "selected_by", "note"))
    for k in range(texts.revised_scores.shape[1]):
        point = _point(texts, texts.revised_scores[:, k], texts.revised_tokens[:, k])
        yield key | unselected | {"strategy": "revisions", "num_drafts": 1, "num_revisions": k} | point
    for selector in selectors:
        named = {"selector": selector.name, "selected_by": selector.selected_by, "note": selector.note}
        for n in range(1, selector.scores.shape[1] + 1):
            point = _point(texts, selector.scores[:, n - 1], n * texts.draft_tokens)
            yield key | named | {"strategy": "best_of_n", "num_drafts": n, "num_revisions": 0} | point


def _point(texts: Texts, scores: Floats, tokens: Floats) -> Row:
    rate = win_rate_interval(scores, texts.clusters)
    return without_nan(
        {
            "mean_tokens": float(tokens.mean()),
            "n_prompts": len(texts.prompts),
            "n_scored": rate.n,
            "win_rate": rate.estimate,
            "standard_error": rate.standard_error,
            "ci_low": rate.ci_low,
            "ci_high": rate.ci_high,
        }
    )


def match_rows(texts: Texts, selectors: Sequence[Selector], key: Row) -> Iterator[Row]:
    """Rows of table `equal_compute_matches`: each number of revisions against each selector at equal tokens."""
    for selector in selectors:
        for k in range(1, texts.revised_scores.shape[1]):
            match = match_tokens(
                texts.revised_scores[:, k], texts.revised_tokens[:, k], selector.scores, texts.draft_tokens, texts.clusters
            )
            named = {"selector": selector.name, "selected_by": selector.selected_by, "note": selector.note}
            yield key | named | {"num_revisions": k} | _match_values(match)


def _match_values(match: Match) -> Row:
    difference = match.difference
    return without_nan(
        {
            "num_drafts": match.num_drafts,
            "mean_tokens": match.mean_tokens,
            "n_scored": difference.n,
            "revisions_win_rate": match.revisions_win_rate,
            "drafts_win_rate": match.drafts_win_rate,
            "difference": difference.estimate,
            "standard_error": difference.standard_error,
            "ci_low": difference.ci_low,
            "ci_high": difference.ci_high,
        }
    )
