-- How often does each policy win, by evaluation set and revision, and how sure is that?
-- parameter: eval_set = any win_rates.eval_set, of which evaluation set; without it of each
SELECT method, seed, beta, eval_set, is_ood, opponent, opponent_revision_index, judge, temperature, sampling, revision_index,
    n_scored, n_games_unscored, round(win_rate, 3) AS win_rate, round(ci_low, 3) AS ci_low, round(ci_high, 3) AS ci_high, policy_id
FROM win_rates WHERE $eval_set IS NULL OR eval_set = $eval_set
ORDER BY eval_set, opponent, opponent_revision_index, judge, temperature, sampling, method, seed, beta, policy_id, revision_index
