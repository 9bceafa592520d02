-- How much of what is possible at its own beta did each policy reach, from the reference up to the closed-form optimum?
SELECT w.method, w.seed, beta, eval_set, w.is_ood, temperature, revision_index, round(w.win_rate, 3) AS win_rate,
    round(c.reference_win_rate, 3) AS reference, round(c.ceiling, 3) AS ceiling,
    round((w.win_rate - c.reference_win_rate) / nullif(c.ceiling - c.reference_win_rate, 0), 3) AS share_reached, policy_id
FROM win_rates w JOIN ceilings c USING (policy_id, beta, eval_set, temperature, revision_index)
ORDER BY eval_set, temperature, w.method, w.seed, beta, policy_id, revision_index
