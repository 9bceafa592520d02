-- At the same number of generated tokens, do k revisions beat the best of n drafts, for each way of picking one?
SELECT p.method, p.seed, p.beta, m.eval_set, m.judge, m.temperature, m.selector, m.selected_by, m.num_revisions,
    round(m.num_drafts, 2) AS num_drafts, round(m.mean_tokens, 1) AS mean_tokens, m.n_scored,
    round(m.revisions_win_rate, 3) AS revisions, round(m.drafts_win_rate, 3) AS best_of_n,
    round(m.difference, 3) AS difference, round(m.ci_low, 3) AS ci_low, round(m.ci_high, 3) AS ci_high, m.note, m.policy_id
FROM equal_compute_matches m JOIN artifacts a ON a.fingerprint = m.artifact AND a.stage = 'equal_compute'
LEFT JOIN policies p ON p.policy_id = m.policy_id
-- asked again with more drafts, or of another judge of the same name: the newest counts
QUALIFY row_number() OVER (
    PARTITION BY m.policy_id, m.eval_set, m.judge, m.temperature, m.selector, m.selected_by, m.num_revisions
    ORDER BY a.created_at DESC, m.artifact) = 1
ORDER BY m.eval_set, m.judge, m.temperature, p.method, p.seed, p.beta, m.policy_id, m.selector, m.num_revisions
