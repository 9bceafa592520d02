-- Where does a judge contradict itself most when the two texts change places?
-- parameter: limit = 20, how many questions
SELECT judge, eval_set, method, revision_index, prompt_id,
    max(score) FILTER ("order" = 'as_is') AS score_shown_first, max(score) FILTER ("order" = 'swapped') AS score_shown_second,
    round(abs(score_shown_first - score_shown_second), 3) AS disagreement,
    any_value(candidate_text) AS candidate_text, any_value(opponent_text) AS opponent_text, candidate, opponent_id
FROM verdicts WHERE eval_set NOT LIKE '%:confirmation'
GROUP BY judge, eval_set, method, revision_index, prompt_id, policy_id, temperature, candidate, opponent_id, repeat_index
HAVING disagreement > 0
ORDER BY disagreement DESC, judge, eval_set, prompt_id, candidate, opponent_id LIMIT $limit
