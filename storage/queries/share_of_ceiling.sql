-- How much of what is possible at its own beta did each policy reach, from the reference up to the closed-form optimum?
SELECT method, seed, beta, eval_set, is_ood, opponent, judge, temperature, sampling, revision_index,
    round(win_rate, 3) AS win_rate, round(reference_win_rate, 3) AS reference, round(ceiling, 3) AS ceiling,
    round(share_reached, 3) AS share_reached, policy_id
FROM win_rates_with_ceilings WHERE ceiling IS NOT NULL
ORDER BY eval_set, judge, temperature, sampling, method, seed, beta, policy_id, revision_index
