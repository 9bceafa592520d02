-- How much of what is possible at its own beta did each policy reach, from the reference up to the closed-form optimum?
SELECT w.method, w.seed, w.beta, w.eval_set, w.is_ood, w.temperature, w.revision_index, round(w.win_rate, 3) AS win_rate,
    round(c.reference_win_rate, 3) AS reference, round(c.ceiling, 3) AS ceiling,
    round((w.win_rate - c.reference_win_rate) / nullif(c.ceiling - c.reference_win_rate, 0), 3) AS share_reached, w.policy_id
FROM win_rates w JOIN ceilings c USING (policy_id, eval_set, temperature, revision_index)
ORDER BY w.eval_set, w.temperature, w.method, w.seed, w.beta, w.policy_id, w.revision_index
