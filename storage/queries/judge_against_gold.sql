-- Where do judge and gold disagree most: which prompts' texts does a judge put above the gold, shown first and shown second?
-- parameter: eval_set = any verdicts.eval_set, of which evaluation set; without it of each but retraining's confirmation prompts
-- parameter: limit = 10, how many prompts of each judge and evaluation set
WITH asked AS (
    SELECT judge, eval_set, policy_id, temperature, sampling, candidate, opponent_id, repeat_index, prompt_id, revision_index,
        any_value(method) AS method, any_value(candidate_text) AS candidate_text, any_value(opponent_text) AS gold_text,
        min(score) AS worse_order, avg(score) AS score
    FROM verdicts
    WHERE opponent = 'gold' AND (eval_set = $eval_set OR ($eval_set IS NULL AND eval_set NOT LIKE '%:confirmation'))
    GROUP BY ALL HAVING count(score) = 2
)
SELECT judge, eval_set, prompt_id, count(*) AS questions, round(avg((worse_order > 0.5)::INT), 3) AS share_above_gold,
    round(avg(score), 3) AS mean_score,
    arg_max(method || ' revision ' || revision_index, (worse_order, score, candidate, opponent_id)) AS example_by,
    arg_max(candidate_text, (worse_order, score, candidate, opponent_id)) AS example_text,
    arg_max(gold_text, (worse_order, score, candidate, opponent_id)) AS gold_text
FROM asked GROUP BY judge, eval_set, prompt_id HAVING share_above_gold > 0
QUALIFY row_number() OVER (PARTITION BY judge, eval_set ORDER BY share_above_gold DESC, mean_score DESC, prompt_id) <= $limit
ORDER BY judge, eval_set, share_above_gold DESC, mean_score DESC, prompt_id
