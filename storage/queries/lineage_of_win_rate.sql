-- Where does each win rate come from: its games, and every artifact they descend from, to source files, commit and Prefect run?
-- parameter: eval_set = any verdicts.eval_set, of which evaluation set; without it of each
-- parameter: policy = any policies.name, of policies with which name; without it of each
WITH RECURSIVE judged AS (
    SELECT DISTINCT policy_id, eval_set, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling, games_artifact
    FROM verdicts
    WHERE games_artifact NOT IN (SELECT artifact FROM drafts_alone)
        AND ($eval_set IS NULL OR eval_set = $eval_set) AND ($policy IS NULL OR policy_name = $policy)
), ancestry AS (
    SELECT games_artifact, 0 AS depth, 'games' AS stage, games_artifact AS fingerprint, '' AS role FROM judged
    UNION
    SELECT a.games_artifact, a.depth + 1, l.parent_stage, l.parent, l.parent_name
    FROM ancestry a JOIN lineage l ON l.child = a.fingerprint AND l.child_stage = a.stage
), best AS (
    SELECT method, policy_id, eval_set, is_ood, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling,
        arg_max(revision_index, win_rate) AS best_revision, max(win_rate) AS win_rate
    FROM win_rates GROUP BY ALL
)
SELECT b.method, b.policy_id, b.eval_set, b.is_ood, b.opponent, b.opponent_policy_id, b.opponent_revision_index, b.judge,
    b.temperature, b.sampling, b.best_revision, round(b.win_rate, 3) AS win_rate,
    min(a.depth) AS depth, a.stage, a.fingerprint, string_agg(DISTINCT a.role, ', ' ORDER BY a.role) AS role, r.created_at, r.git_commit,
    m.run_id, n.prefect_run, n.deployment,
    coalesce(r.info ->> '$.source', r.settings ->> '$.settings.name_or_path', r.info ->> '$.model_folder',
        CASE a.stage WHEN 'prompts' THEN nullif(array_to_string(r.info ->> '$.sources[*]', ', '), '') END) AS source,
    coalesce(r.settings ->> '$.sha256', r.settings ->> '$.commit', r.settings ->> '$.settings.commit', nullif(array_to_string(
        list_concat(r.settings ->> '$.sources[*].sha256', r.settings ->> '$.sources[*].commit',
            r.settings ->> '$.opponents[*].sha256', r.settings ->> '$.opponents[*].commit'), ', '), '')) AS sha256_or_commit,
    r.counts
FROM best b JOIN judged j ON j.policy_id = b.policy_id AND j.eval_set = b.eval_set AND j.opponent = b.opponent AND j.judge = b.judge
    AND j.temperature = b.temperature AND j.sampling = b.sampling AND j.opponent_policy_id IS NOT DISTINCT FROM b.opponent_policy_id
    AND j.opponent_revision_index IS NOT DISTINCT FROM b.opponent_revision_index
JOIN ancestry a USING (games_artifact)
LEFT JOIN artifacts r ON r.stage = a.stage AND r.fingerprint = a.fingerprint
LEFT JOIN made_by m ON m.stage = a.stage AND m.fingerprint = a.fingerprint
LEFT JOIN runs n ON n.run_id = m.run_id
GROUP BY ALL
ORDER BY b.method, b.policy_id, b.eval_set, b.opponent, b.opponent_policy_id, b.opponent_revision_index, b.judge, b.temperature, b.sampling,
    depth, a.stage, a.fingerprint
