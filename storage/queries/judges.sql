-- How much does each judge's verdict depend on which text it sees first?
SELECT judge, eval_set, opponent, n_comparisons, n_both_scored, n_games_unscored, round(consistency, 3) AS consistency,
    round(first_position_rate, 3) AS first_position_rate, round(both_first, 3) AS both_first, round(both_second, 3) AS both_second
FROM judge_consistency ORDER BY judge, eval_set, opponent
