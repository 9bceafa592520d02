-- Do self-revisions help: what does each revision add to the same policy's first draft, paired by prompt?
-- parameter: eval_set = any revision_gain.eval_set, of which evaluation set; without it of each
-- parameter: revision_index = any revision_gain.revision_index, which revision; without it all
SELECT method, seed, beta, eval_set, is_ood, opponent, opponent_revision_index, judge, temperature, sampling, revision_index, n_scored,
    round(gain, 3) AS gain, round(ci_low, 3) AS ci_low, round(ci_high, 3) AS ci_high,
    round(band_low, 3) AS band_low, round(band_high, 3) AS band_high, round(step_gain, 3) AS step_gain, round(step_p_value, 4) AS step_p_value, policy_id
FROM revision_gain
WHERE ($eval_set IS NULL OR eval_set = $eval_set) AND ($revision_index IS NULL OR CAST(revision_index AS VARCHAR) = $revision_index)
ORDER BY eval_set, opponent, opponent_revision_index, judge, temperature, sampling, method, seed, beta, policy_id, revision_index
