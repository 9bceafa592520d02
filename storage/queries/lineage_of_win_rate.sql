-- Where does each policy's win rate come from: its best revision, and every artifact the policy descends from?
WITH RECURSIVE ancestry AS (
    SELECT policy_id, 0 AS depth, 'policies' AS stage, policy_id AS fingerprint, '' AS role FROM policies
    UNION
    SELECT a.policy_id, a.depth + 1, l.parent_stage, l.parent, l.parent_name
    FROM ancestry a JOIN lineage l ON l.child = a.fingerprint AND l.child_stage = a.stage
), best AS (
    SELECT policy_id, method, eval_set, is_ood, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling,
        arg_max(revision_index, win_rate) AS best_revision, max(win_rate) AS win_rate
    FROM win_rates GROUP BY ALL
)
SELECT b.method, b.policy_id, b.eval_set, b.is_ood, b.opponent, b.opponent_policy_id, b.opponent_revision_index, b.judge,
    b.temperature, b.sampling, b.best_revision, round(b.win_rate, 3) AS win_rate,
    min(a.depth) AS depth, a.stage, a.fingerprint, string_agg(DISTINCT a.role, ', ' ORDER BY a.role) AS role, r.created_at, r.git_commit, r.counts
FROM best b JOIN ancestry a USING (policy_id) LEFT JOIN artifacts r ON r.stage = a.stage AND r.fingerprint = a.fingerprint
GROUP BY ALL
ORDER BY b.method, b.policy_id, b.eval_set, b.opponent, b.opponent_revision_index, b.judge, b.temperature, b.sampling, depth, a.stage, a.fingerprint
