-- Which method wins more often than which, on the same prompts against the same opponent?
-- parameter: eval_set = any head_to_head.eval_set, on which evaluation set; without it on each
SELECT eval_set, is_ood, opponent, opponent_revision_index, judge, temperature, sampling, revision_index, method_a, method_b, seed_a AS seed, n_scored,
    round(difference, 3) AS difference, round(ci_low, 3) AS ci_low, round(ci_high, 3) AS ci_high, policy_a, policy_b
FROM head_to_head WHERE $eval_set IS NULL OR eval_set = $eval_set
ORDER BY eval_set, opponent, opponent_revision_index, judge, temperature, sampling, revision_index, method_a, method_b, seed_a, policy_a, policy_b
