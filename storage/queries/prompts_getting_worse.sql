-- Which prompts get worse with each revision: never better than the revision before, and worse in the end than the draft?
-- parameter: eval_set = any verdicts.eval_set, of which evaluation set; without it of each but retraining's confirmation prompts
-- parameter: limit = 5, how many prompts of each policy and evaluation set
WITH judged AS (
    SELECT policy_id, eval_set, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling, prompt_id,
        revision_index, any_value(method) AS method, avg(score) AS score,
        arg_min(candidate_text, (sample_index, candidate)) AS text
    FROM verdicts
    WHERE games_artifact NOT IN (SELECT artifact FROM drafts_alone) AND (eval_set = $eval_set OR ($eval_set IS NULL AND eval_set NOT LIKE '%:confirmation'))
    GROUP BY ALL HAVING count(score) = count(*)
), steps AS (
    SELECT *, score - lag(score) OVER (
        PARTITION BY policy_id, eval_set, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling, prompt_id
        ORDER BY revision_index) AS step
    FROM judged
)
SELECT method, eval_set, opponent, opponent_revision_index, judge, temperature, sampling, prompt_id,
    list(round(score, 3) ORDER BY revision_index) AS score_by_revision, count(*) FILTER (step < 0) AS steps_down,
    round(arg_max(score, revision_index) - arg_min(score, revision_index), 3) AS change,
    arg_min(text, revision_index) AS draft, arg_max(text, revision_index) AS last_revision, policy_id
FROM steps
GROUP BY method, policy_id, eval_set, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling, prompt_id
HAVING coalesce(max(step), 1) <= 0 AND change < 0 AND count(*) = max(revision_index) + 1  -- all have a score, from the draft on
QUALIFY row_number() OVER (
    PARTITION BY policy_id, eval_set, opponent, opponent_policy_id, opponent_revision_index, judge, temperature, sampling
    ORDER BY change, steps_down DESC, prompt_id) <= $limit
ORDER BY eval_set, judge, opponent, opponent_revision_index, temperature, sampling, method, policy_id, change, steps_down DESC, prompt_id
