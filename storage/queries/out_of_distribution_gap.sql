-- How much does a policy lose on evaluation sets of a domain it was not trained on?
WITH seen AS (
    SELECT policy_id, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling, revision_index,
        avg(win_rate) AS win_rate, string_agg(eval_set, ', ' ORDER BY eval_set) AS eval_sets
    FROM win_rates WHERE NOT is_ood AND win_rate IS NOT NULL GROUP BY ALL
)
SELECT w.method, w.seed, w.beta, w.opponent, w.opponent_revision_index, w.judge, w.temperature, w.sampling, w.revision_index,
    s.eval_sets AS trained_domain_sets, round(s.win_rate, 3) AS in_distribution,
    w.eval_set AS other_domain_set, round(w.win_rate, 3) AS out_of_distribution,
    round(w.ci_low, 3) AS ci_low, round(w.ci_high, 3) AS ci_high, w.n_scored, round(s.win_rate - w.win_rate, 3) AS gap, w.policy_id
FROM win_rates w JOIN seen s ON s.policy_id = w.policy_id AND s.opponent = w.opponent AND s.judge = w.judge
    AND s.temperature = w.temperature AND s.sampling = w.sampling AND s.revision_index = w.revision_index
    AND s.opponent_policy_id IS NOT DISTINCT FROM w.opponent_policy_id
    AND s.opponent_revision_index IS NOT DISTINCT FROM w.opponent_revision_index
WHERE w.is_ood
ORDER BY other_domain_set, w.opponent, w.opponent_revision_index, w.judge, w.temperature, w.sampling, w.method, w.seed, w.beta,
    w.policy_id, w.revision_index
