"""The equal-compute stage: at the same number of generated tokens, revise k times or draw n drafts and keep the best?

One policy answers each prompt by a chain of revisions and by independent drafts, decoded alike; both are scored by one judge
against the gold. What picks a draft never sees those verdicts: likelihoods are the policy's own, rewards a reward model's, and a
judge picks by a knock-out between drafts, in games of their own. Where the judge that picks also scores, its taste counts twice
all the same, which the table notes. In the newsroom, whose judge is exact, an oracle that picks by the very scores is an upper
bound for every selector; with any other judge it would pick the judge's errors.

Tokens are those that the policy generated, stop tokens included. What a selector reads comes on top and is not counted. The first
of the drafts is the chain's own, from the same seed: differences are paired by prompt, so that chance in it falls on both sides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.charts import standalone
from srpo_core.errors import InputError
from srpo_core.judging.request_limits import Spent
from srpo_core.settings.judges import JudgeSettings
from srpo_core.settings.model import GenerationSettings, ModelSettings
from srpo_core.settings.pipeline import EqualComputeSettings
from srpo_core.settings.resources import Resources
from storage import parquet
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, writing
from storage.schemas import EQUAL_COMPUTE, EQUAL_COMPUTE_MATCHES, LIKELIHOODS, REWARDS
from tasks.equal_compute_chart import draw_equal_compute
from tasks.equal_compute_tables import (
    Selector,
    Texts,
    curve_rows,
    match_rows,
    read_texts,
    select_by_knockout,
    select_by_value,
)
from tasks.generation import generate_completions
from tasks.judge_identity import judge_name
from tasks.judging import judge_completions
from tasks.knockouts import play_knockouts, read_winners
from tasks.likelihoods import compute_likelihoods
from tasks.rewards import compute_rewards

VERSION = 1
CHART = "curve.svg"
UPPER_BOUND = "upper bound: it picks by the very scores, which are exact"
SAME_JUDGE = "the judge that scores also picks, in other games"
Row = dict[str, Any]


class _Inputs(NamedTuple):
    """Everything the tables of one evaluation set are made from."""

    policy: Artifact
    prompts: Artifact
    chains: Artifact
    drafts: Artifact
    chain_games: Artifact
    draft_games: Artifact
    selections: dict[str, Artifact]  # by selector: likelihood, judge, reward_model

    def parents(self) -> dict[str, Artifact]:
        """By role."""
        return {name: value for name, value in self._asdict().items() if name != "selections"} | self.selections


def compare_equal_compute(
    policy: Artifact,
    prompts: Sequence[Artifact],
    settings: EqualComputeSettings,
    generation: GenerationSettings,
    judge: JudgeSettings,
    *,
    model: ModelSettings,
    resources: Resources,
    home: Path,
    spent: Spent | None = None,
) -> list[Artifact]:
    """The artifacts `equal_compute`, one for each evaluation set, with all that they are made from.

    `generation` decodes the chain, and the drafts as well but for their number; `spent` lets other stages share the judge's
    budget. Raises InputError for a chain without revisions, and what the stages it rests on raise.
    """
    if generation.num_revisions < 1:
        raise InputError(
            "expected generation.num_revisions of at least 1 to compare with drafts, found 0; ask for more revisions"
        )
    for one in (judge, settings.picking_judge, settings.reward_model):
        if one is not None:
            judge_name(one)  # a local judge's model is found before anything is decoded, or not at all
    spread: dict[str, Any] = {"model": model, "resources": resources, "home": home}
    drawn = generation.model_copy(update={"num_samples": settings.num_samples, "num_revisions": 0})
    chains = generate_completions([policy], prompts, generation, **spread)
    drafts = generate_completions([policy], prompts, drawn, **spread)
    likelihoods = compute_likelihoods(policy, drafts, prompts, **spread) if "likelihood" in settings.select else []
    asking: dict[str, Any] = {"resources": resources, "spent": spent or Spent()}
    made = []
    for index, prompt_set in enumerate(prompts):
        games = [judge_completions(one[index], [prompt_set], judge, home, **asking) for one in (chains, drafts)]
        selections = {"likelihood": likelihoods[index]} if likelihoods else {}
        selections |= _picked_by_others(drafts[index], prompt_set, settings, judge, home, asking)
        inputs = _Inputs(policy, prompt_set, chains[index], drafts[index], games[0], games[1], selections)
        made.append(_tabulate(inputs, settings, judge, home))
    return made


def _picked_by_others(
    drafts: Artifact,
    prompts: Artifact,
    settings: EqualComputeSettings,
    judge: JudgeSettings,
    home: Path,
    asking: dict[str, Any],
) -> dict[str, Artifact]:
    found = {}
    if "judge" in settings.select:
        other = settings.picking_judge
        own = asking if other is None else asking | {"spent": Spent()}  # another judge has a budget of its own
        found["judge"] = play_knockouts(drafts, prompts, other or judge, home, seed=settings.seed, **own)
    if settings.reward_model is not None:
        found["reward_model"] = compute_rewards(drafts, prompts, settings.reward_model, home, resources=asking["resources"])
    return found


def _tabulate(inputs: _Inputs, settings: EqualComputeSettings, judge: JudgeSettings, home: Path) -> Artifact:
    asked = {"select": sorted(settings.select), "judge": judge_name(judge)}
    parents = inputs.parents()
    fingerprint = compute_fingerprint("equal_compute", VERSION, asked, parents)
    found = find_artifact(home, "equal_compute", fingerprint)
    if found is not None:
        return found
    with writing(home, "equal_compute", fingerprint, version=VERSION, settings=asked, parents=parents) as writer:
        return writer.artifact or _write(inputs, judge, writer)


def _write(inputs: _Inputs, judge: JudgeSettings, writer: ArtifactWriter) -> Artifact:
    texts = read_texts(inputs.prompts, inputs.chains, inputs.chain_games, inputs.drafts, inputs.draft_games)
    selectors = [one for name, artifact in inputs.selections.items() for one in _selectors(name, artifact, texts, judge)]
    if judge.kind == "rule":
        scores = {
            one: float(s) for own in zip(texts.draft_ids, texts.draft_scores, strict=True) for one, s in zip(*own, strict=True)
        }
        selectors.append(select_by_value(texts, scores, "oracle", judge_name(judge), UPPER_BOUND))
    eval_set = inputs.prompts.settings["name"]
    key = {
        "policy_id": inputs.policy.fingerprint,
        "eval_set": eval_set,
        "judge": judge_name(judge),
        "temperature": inputs.chains.settings["temperature"],
    }
    curve, matches = list(curve_rows(texts, selectors, key)), list(match_rows(texts, selectors, key))
    files = [writer.part_path(0, "curve"), writer.part_path(0, "matches"), writer.path / CHART]
    parquet.write_rows(files[0], curve, EQUAL_COMPUTE)
    parquet.write_rows(files[1], matches, EQUAL_COMPUTE_MATCHES)
    title = f"{inputs.policy.info['name']} on {eval_set}"
    svg = standalone(draw_equal_compute(curve, title=title, method=inputs.policy.settings.get("method", "hub")))
    parquet.write_atomically(files[2], lambda temporary: temporary.write_text(svg, encoding="utf-8"))
    counts = {"prompts": len(texts.prompts), "drafts": inputs.drafts.counts["completions"]}
    counts |= {"games_unscored": sum(games.counts["unscored"] for games in (inputs.chain_games, inputs.draft_games))}
    return writer.complete(files, counts=counts, info={"name": title})


def _selectors(name: str, artifact: Artifact, texts: Texts, judge: JudgeSettings) -> list[Selector]:
    """A kind of selector's ways of picking: by likelihood there are two."""
    if name == "likelihood":
        rows = artifact.read(LIKELIHOODS).to_pylist()
        sums = {row["completion_id"]: row["logp"] for row in rows}
        means = {row["completion_id"]: row["logp"] / row["num_tokens"] if row["num_tokens"] else None for row in rows}
        return [select_by_value(texts, values, f"likelihood_{kind}", None) for kind, values in (("sum", sums), ("mean", means))]
    picked_by = artifact.info["judge"]
    note = SAME_JUDGE if picked_by == judge_name(judge) else None
    if name == "judge":
        return [select_by_knockout(texts, dict(read_winners(artifact)), name, picked_by, note)]
    rewards = {row["completion_id"]: row["reward"] for row in artifact.read(REWARDS).to_pylist()}
    return [select_by_value(texts, rewards, name, picked_by, note)]


def read_tables(artifact: Artifact) -> tuple[list[Row], list[Row]]:
    """The rows of `equal_compute` and of `equal_compute_matches` that an artifact holds."""
    return (
        artifact.read(EQUAL_COMPUTE, prefix="curve").to_pylist(),
        artifact.read(EQUAL_COMPUTE_MATCHES, prefix="matches").to_pylist(),
    )
