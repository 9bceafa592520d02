-- What did judging cost, in requests, tokens, money and time, by what the judge was asked for?
WITH judged AS (
    SELECT 'games' AS asked_for, * FROM games
    UNION ALL BY NAME SELECT 'knockout' AS asked_for, * FROM knockout_games
    UNION ALL BY NAME SELECT 'audit' AS asked_for, * FROM audit_verdicts
    UNION ALL BY NAME SELECT 'injections' AS asked_for, * FROM injection_games
    UNION ALL BY NAME SELECT 'sentinel' AS asked_for, * FROM sentinel_verdicts
), counted AS (
    -- games share replies, and a reply is paid for once: it counts where it came first, a failed call only if no reply came;
    -- without a request hash no address was asked, and each game took time of its own
    SELECT j.*, j.request_hash IS NULL OR row_number() OVER (
        PARTITION BY j.request_hash
        ORDER BY j.unscored_reason IS NOT NULL AND starts_with(j.unscored_reason, 'api_error:'),
            a.created_at, j.asked_for, j.artifact, j.game_id) = 1 AS is_first
    FROM judged j LEFT JOIN artifacts a ON a.fingerprint = j.artifact
)
SELECT asked_for, judge, model_answered, count(*) AS games, count(*) FILTER (score IS NULL) AS unscored,
    count(request_hash) FILTER (is_first) AS requests,
    sum(prompt_tokens) FILTER (is_first) AS prompt_tokens, sum(completion_tokens) FILTER (is_first) AS completion_tokens,
    sum(cost) FILTER (is_first) AS cost, count(request_hash) FILTER (is_first AND cost IS NULL) AS requests_of_unknown_cost,
    round(sum(seconds) FILTER (is_first), 1) AS seconds,
    round(quantile_cont(seconds, 0.5) FILTER (is_first), 3) AS median_seconds
FROM counted
GROUP BY ALL ORDER BY games DESC, asked_for, judge, model_answered
