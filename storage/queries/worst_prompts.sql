-- On which prompts does each method's last revision lose most clearly, and what did it write?
-- parameter: eval_set = any verdicts.eval_set, of which evaluation set; without it of each but retraining's confirmation prompts
-- parameter: limit = 5, how many prompts of each policy and evaluation set
WITH last AS (
    SELECT * FROM verdicts WHERE score IS NOT NULL AND (eval_set = $eval_set OR ($eval_set IS NULL AND eval_set NOT LIKE '%:confirmation'))
    QUALIFY revision_index = max(revision_index) OVER (
        PARTITION BY policy_id, eval_set, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling)
), by_prompt AS (
    SELECT method, policy_id, eval_set, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling,
        revision_index, prompt_id, count(*) AS games, avg(score) AS score,
        arg_min(candidate_text, (score, game_id)) AS candidate_text, arg_min(opponent_text, (score, game_id)) AS opponent_text
    FROM last GROUP BY ALL
)
SELECT method, eval_set, opponent, opponent_revision_index, judge, temperature, sampling, revision_index, prompt_id, games,
    round(score, 3) AS score, candidate_text, opponent_text, policy_id
FROM by_prompt WHERE by_prompt.score < 0.5
QUALIFY row_number() OVER (
    PARTITION BY policy_id, eval_set, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling
    ORDER BY score, prompt_id) <= $limit
ORDER BY method, policy_id, eval_set, opponent, opponent_revision_index, judge, temperature, sampling, score, prompt_id
