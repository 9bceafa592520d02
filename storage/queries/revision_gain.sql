-- Do self-revisions help: what does each revision add to the same policy's first draft, paired by prompt?
SELECT method, seed, beta, eval_set, is_ood, opponent, opponent_revision_index, judge, temperature, sampling, revision_index, n_scored,
    round(gain, 3) AS gain, round(ci_low, 3) AS ci_low, round(ci_high, 3) AS ci_high,
    round(band_low, 3) AS band_low, round(band_high, 3) AS band_high, round(step_gain, 3) AS step_gain, round(step_p_value, 4) AS step_p_value, policy_id
FROM revision_gain
ORDER BY eval_set, opponent, opponent_revision_index, judge, temperature, sampling, method, seed, beta, policy_id, revision_index
