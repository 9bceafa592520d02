"""SQL that turns the loaded tables of the results database into what people ask for: verdicts and comparisons.

No statistics here: counting, joining and pairing the two orders of a question. Each statement says what it decides.
"""

import duckdb
import pyarrow as pa

from storage.errors import BrokenArtifact

# Two judges of one name and different settings are two judges.
_JUDGE_NAMES = """
UPDATE games SET judge = judge || '@' || judge_settings
WHERE judge IN (SELECT judge FROM games GROUP BY judge HAVING count(DISTINCT judge_settings) > 1)
"""

# Diagnostics made again for the same policy: the newest count.
_NEWEST_DIAGNOSTICS = """
DELETE FROM ceilings WHERE rowid IN (
    SELECT t.rowid FROM ceilings t JOIN artifacts a ON a.fingerprint = t.artifact
    QUALIFY row_number() OVER (
        PARTITION BY policy_id, eval_set, beta, temperature, revision_index ORDER BY a.created_at DESC, t.artifact) > 1);
DELETE FROM one_edit WHERE rowid IN (
    SELECT t.rowid FROM one_edit t JOIN artifacts a ON a.fingerprint = t.artifact
    QUALIFY row_number() OVER (PARTITION BY policy_id, edit ORDER BY a.created_at DESC, t.artifact) > 1);
"""

# The domains a policy has seen: of every preferences artifact it descends from; where there is none (a supervised policy),
# of the preferences made from one of its own ancestors. 'unknown' says nothing.
_TRAINING_DOMAINS = """
ALTER TABLE policies ADD COLUMN training_domains VARCHAR[];
CREATE TEMP TABLE ancestors AS
WITH RECURSIVE walk(policy_id, stage, fingerprint) AS (
    SELECT policy_id, 'policies', policy_id FROM policies
    UNION
    SELECT w.policy_id, l.parent_stage, l.parent FROM walk w JOIN lineage l ON l.child = w.fingerprint AND l.child_stage = w.stage
)
SELECT * FROM walk;
CREATE TEMP TABLE seen AS
WITH own AS (
    SELECT policy_id, fingerprint AS preferences FROM ancestors WHERE stage = 'preferences'
), made_from_the_same AS (
    SELECT a.policy_id, l.child AS preferences
    FROM ancestors a JOIN lineage l ON l.parent = a.fingerprint AND l.parent_stage = a.stage AND l.child_stage = 'preferences'
    WHERE a.stage <> 'policies' AND a.policy_id NOT IN (SELECT policy_id FROM own)
)
SELECT policy_id, list_sort(list(DISTINCT p.domain)) AS domains
FROM (FROM own UNION FROM made_from_the_same) s JOIN preferences p ON p.artifact = s.preferences
GROUP BY policy_id;
UPDATE policies SET training_domains = seen.domains FROM seen WHERE seen.policy_id = policies.policy_id;
"""

# A name that several policies share is told apart by the beginning of the policy's id.
_POLICY_LABELS = """
CREATE TEMP TABLE policy_labels AS
SELECT policy_id, CASE WHEN count(*) OVER (PARTITION BY name) = 1 THEN name ELSE name || '@' || policy_id[:8] END AS label
FROM policies
"""

# What a game is about, found among the parents that its own manifest names.
_GAME_TEXTS = """
CREATE TEMP TABLE judged_texts AS
SELECT DISTINCT ON (l.child, c.completion_id) l.child AS games, c.*
FROM (SELECT DISTINCT child, parent FROM lineage WHERE child_stage = 'games' AND parent_stage = 'completions') l
JOIN completions c ON c.artifact = l.parent
ORDER BY l.child, c.completion_id, c.artifact;
CREATE TEMP TABLE judged_prompts AS
SELECT DISTINCT ON (l.child, p.prompt_id) l.child AS games, p.*
FROM (SELECT DISTINCT child, parent FROM lineage WHERE child_stage = 'games' AND parent_stage = 'prompts') l
JOIN prompts p ON p.artifact = l.parent
ORDER BY l.child, p.prompt_id, p.artifact;
"""

# is_ood is null when the evaluation set or a training pair is of an unknown domain and the answer depends on it. A question
# answered in several artifacts counts once: a scored answer before an unscored one, then the newest.
_GAME_FACTS = """
CREATE TEMP TABLE set_domains AS
SELECT games, eval_set, list(DISTINCT domain) AS domains FROM judged_prompts GROUP BY ALL;
CREATE TABLE game_facts AS
SELECT g.artifact, g.game_id, g."order", g.repeat_index, c.policy_id, c.sampling, c.completion_id IS NOT NULL AS has_candidate,
    c.artifact AS completions_artifact, o.artifact AS opponents_artifact, p.artifact AS prompts_artifact,
    p.eval_set, c.revision_index, c.temperature,
    CASE WHEN g.opponent LIKE 'gold:%' THEN 'gold' ELSE ol.label END AS opponent,
    o.policy_id AS opponent_policy_id, o.revision_index AS opponent_revision_index,
    CASE WHEN pol.training_domains IS NULL OR list_contains(d.domains, 'unknown') THEN NULL
         WHEN list_has_any(pol.training_domains, d.domains) THEN false
         WHEN list_contains(pol.training_domains, 'unknown') THEN NULL
         ELSE true END AS is_ood,
    row_number() OVER (
        PARTITION BY g.judge, c.policy_id, c.sampling, g.candidate, g.opponent, g."order", g.repeat_index
        ORDER BY g.score IS NULL, a.created_at DESC, g.artifact, g.game_id
    ) > 1 AS superseded
FROM games g
JOIN artifacts a ON a.fingerprint = g.artifact AND a.stage = 'games'
LEFT JOIN judged_texts c ON c.games = g.artifact AND c.completion_id = g.candidate
LEFT JOIN judged_texts o ON o.games = g.artifact AND o.completion_id = g.opponent
LEFT JOIN judged_prompts p ON p.games = g.artifact AND p.prompt_id = g.prompt_id
LEFT JOIN set_domains d ON d.games = g.artifact AND d.eval_set = p.eval_set
LEFT JOIN policies pol ON pol.policy_id = c.policy_id
LEFT JOIN policy_labels ol ON ol.policy_id = o.policy_id
"""

# A curve is drawn from chains. Drafts alone, drawn in numbers to pick from, are other texts than those that were revised: where
# the same judge has seen chains that the policy decoded alike for the same prompts, they stay out of it.
_DRAFTS_ALONE = """
CREATE TEMP TABLE judged_sets AS
SELECT f.artifact, g.judge, f.policy_id, f.temperature, f.sampling, f.prompts_artifact, f.opponent, f.opponent_revision_index,
    max(f.revision_index) AS revisions
FROM game_facts f JOIN games g USING (artifact, game_id) GROUP BY ALL;
CREATE TABLE drafts_alone AS
SELECT DISTINCT drafts.artifact
FROM judged_sets drafts JOIN judged_sets chains USING (judge, policy_id, temperature, sampling, prompts_artifact, opponent)
WHERE drafts.revisions = 0 AND chains.revisions > 0
    AND drafts.opponent_revision_index IS NOT DISTINCT FROM chains.opponent_revision_index;
"""

_ORPHANS = """
SELECT artifact, count(*) FILTER (NOT has_candidate), count(*) FILTER (eval_set IS NULL), count(*) FILTER (opponent IS NULL)
FROM game_facts WHERE NOT has_candidate OR eval_set IS NULL OR opponent IS NULL GROUP BY artifact ORDER BY artifact LIMIT 1
"""

_VERDICTS = """
CREATE VIEW verdicts AS
SELECT g.game_id, f.eval_set, f.is_ood, g.prompt_id, p.prompt, p.domain,
    coalesce(nullif(p.cluster_id, ''), g.prompt_id) AS cluster_id,
    pol.method, f.policy_id, pol.name AS policy_name, pol.seed, pol.alpha, pol.beta, f.temperature, f.sampling,
    f.revision_index, c.sample_index, g.candidate, c.text AS candidate_text, c.num_tokens, c.finish_reason,
    f.opponent, f.opponent_policy_id, f.opponent_revision_index, g.opponent AS opponent_id,
    coalesce(o.text, p.gold[try_cast(split_part(g.opponent, ':', 2) AS INTEGER) + 1]) AS opponent_text,
    g.judge, g."order", g.repeat_index, g.outcome, g.score, g.unscored_reason, g.label, g.identical, g.rung,
    g.request_hash, g.judge_model, g.model_answered,
    g.prompt_tokens, g.completion_tokens, g.cost, g.seconds, g.artifact AS games_artifact
FROM games g
JOIN game_facts f ON f.artifact = g.artifact AND f.game_id = g.game_id AND NOT f.superseded
JOIN completions c ON c.artifact = f.completions_artifact AND c.completion_id = g.candidate
JOIN prompts p ON p.artifact = f.prompts_artifact AND p.prompt_id = g.prompt_id
LEFT JOIN completions o ON o.artifact = f.opponents_artifact AND o.completion_id = g.opponent
LEFT JOIN policies pol ON pol.policy_id = f.policy_id
"""

# What Python's str.strip takes off: texts that differ only in it are the same to a judge.
_WHITE_SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())  # the ideographic space is the last

# One row a question asked in both orders; a missing order is null like an unscored one. Both orders show the same two texts.
_COMPARISONS = """
SELECT v.method, v.policy_id, v.seed, v.alpha, v.beta, pol.learning_rate, v.eval_set, v.is_ood, v.opponent, v.opponent_policy_id,
    v.opponent_revision_index, v.judge, v.temperature, v.sampling, v.revision_index, v.prompt_id, v.cluster_id,
    v.candidate, v.opponent_id, v.repeat_index,
    any_value(length(v.candidate_text))::DOUBLE AS candidate_length,
    any_value(length(v.opponent_text))::DOUBLE AS opponent_length,
    any_value(trim(v.candidate_text, $white_space) = trim(v.opponent_text, $white_space)) AS identical,
    max(v.score) FILTER (v."order" = 'as_is') AS as_is,
    max(v.score) FILTER (v."order" = 'swapped') AS swapped,
    max(v.label) FILTER (v."order" = 'as_is') AS label_as_is,
    max(v.label) FILTER (v."order" = 'swapped') AS label_swapped,
    count(*) FILTER (v.score IS NULL) AS n_unscored
FROM verdicts v LEFT JOIN policies pol USING (policy_id)
WHERE v.games_artifact NOT IN (SELECT artifact FROM drafts_alone)
GROUP BY ALL ORDER BY ALL
"""

# The ceiling is what the exact judge would say of the exact optimum against the gold texts: no other judge's win rate, and none
# against a policy, is on its scale. "rule@..." is that judge under two settings (_JUDGE_NAMES).
_WIN_RATES_WITH_CEILINGS = """
CREATE VIEW win_rates_with_ceilings AS
SELECT w.*, c.reference_win_rate, c.ceiling,
    (w.win_rate - c.reference_win_rate) / nullif(c.ceiling - c.reference_win_rate, 0) AS share_reached
FROM win_rate_bands w
LEFT JOIN ceilings c ON (w.judge = 'rule' OR starts_with(w.judge, 'rule@')) AND w.opponent = 'gold'
    AND w.opponent_policy_id IS NULL AND c.policy_id = w.policy_id AND c.beta = w.beta AND c.eval_set = w.eval_set
    AND c.temperature = w.temperature AND c.revision_index = w.revision_index
"""


def relate(connection: duckdb.DuckDBPyConnection) -> None:
    """Add `policies.training_domains`, the table `game_facts` and the view `verdicts` to the loaded tables.

    Raises BrokenArtifact when games judge texts or prompts that are no longer there.
    """
    for statements in (_JUDGE_NAMES, _NEWEST_DIAGNOSTICS, _TRAINING_DOMAINS, _POLICY_LABELS, _GAME_TEXTS, _GAME_FACTS):
        connection.execute(statements)
    orphan = connection.execute(_ORPHANS).fetchone()
    if orphan is not None:
        raise BrokenArtifact(
            f"expected the completions, prompts and opponents that games/{orphan[0]} judged, found {orphan[1]} games without "
            f"their completion, {orphan[2]} without their prompt and {orphan[3]} without their opponent; "
            "run those stages again or delete that folder"
        )
    connection.execute("ALTER TABLE game_facts DROP COLUMN has_candidate")
    connection.execute(_DRAFTS_ALONE)
    connection.execute(_VERDICTS)


def comparisons(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per question (candidate, opponent, judge, repeat) with what both orders gave, NULL where missing.

    Columns are those of `schemas.COMPARISONS`.
    """
    return connection.sql(_COMPARISONS, params={"white_space": _WHITE_SPACE}).to_arrow_table()


def relate_win_rates(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the view `win_rates_with_ceilings`: `win_rate_bands` beside the ceiling of each rate that has one, else NULL."""
    connection.execute(_WIN_RATES_WITH_CEILINGS)
