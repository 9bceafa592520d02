-- How many training pairs overlap with each evaluation set, in what way, and how many were left out of training?
WITH looked_at AS (
    SELECT DISTINCT l.child AS artifact, p.eval_set, p.prompt_id
    FROM lineage l JOIN prompts p ON p.artifact = l.parent
    WHERE l.child_stage = 'contamination' AND l.parent_stage = 'prompts'
), sets AS (
    SELECT artifact, eval_set, count(*) AS prompts FROM looked_at GROUP BY ALL
), found AS (
    SELECT c.artifact, s.eval_set, c.kind, count(DISTINCT c.pair_id) AS pairs, count(DISTINCT c.prompt_id) AS prompts
    FROM contamination c JOIN looked_at s USING (artifact, prompt_id) GROUP BY ALL
)
SELECT s.eval_set, s.prompts, o.kind, coalesce(o.pairs, 0) AS overlapping_pairs, coalesce(o.prompts, 0) AS overlapping_prompts,
    r.value AS pairs_read, c.value AS pairs_left_out_for_all_sets, d.parent AS preferences, s.artifact
FROM sets s
LEFT JOIN found o USING (artifact, eval_set)
LEFT JOIN counts r ON r.stage = 'contamination' AND r.fingerprint = s.artifact AND r.name = 'pairs_read'
LEFT JOIN counts c ON c.stage = 'contamination' AND c.fingerprint = s.artifact AND c.name = 'contaminated_pairs'
LEFT JOIN lineage d ON d.child_stage = 'contamination' AND d.child = s.artifact AND d.parent_stage = 'preferences'
ORDER BY s.artifact, s.eval_set, overlapping_pairs DESC, o.kind
