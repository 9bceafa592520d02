-- What did judging cost, in requests, tokens, money and time?
SELECT judge, model_answered, count(*) AS games, count(DISTINCT request_hash) AS requests,
    count(*) FILTER (score IS NULL) AS unscored, sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
    sum(cost) AS cost, count(*) FILTER (cost IS NULL) AS games_of_unknown_cost,
    round(sum(seconds), 1) AS seconds, round(quantile_cont(seconds, 0.5), 3) AS median_seconds
FROM games
GROUP BY ALL ORDER BY games DESC, judge, model_answered
