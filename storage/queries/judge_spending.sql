-- What did the last days of judging cost, in money and tokens, by day and run?
-- parameter: days = 7, how many days back
WITH judged AS (
    SELECT * FROM games
    UNION ALL BY NAME SELECT * FROM knockout_games
    UNION ALL BY NAME SELECT * FROM audit_verdicts
    UNION ALL BY NAME SELECT * FROM injection_games
    UNION ALL BY NAME SELECT * FROM sentinel_verdicts
), counted AS (
    -- a reply is paid for once: it counts where it came first, a failed call only if no reply came; without a request hash no
    -- address was asked (as in judge_cost)
    SELECT j.*, coalesce(a.info ->> '$.first_complete_at', a.created_at) AS completed_at, m.run_id,
        j.request_hash IS NULL OR row_number() OVER (
            PARTITION BY j.request_hash
            ORDER BY j.unscored_reason IS NOT NULL AND starts_with(j.unscored_reason, 'api_error:'),
                completed_at, j.artifact, j.game_id) = 1 AS is_first
    FROM judged j
    JOIN artifacts a ON a.fingerprint = j.artifact
    LEFT JOIN made_by m ON m.fingerprint = j.artifact AND m.stage = a.stage
)
SELECT CAST(CAST(c.completed_at AS TIMESTAMP) AS DATE) AS day, c.run_id, r.name AS run_name, r.deployment, c.judge,
    count(*) FILTER (is_first AND c.request_hash IS NOT NULL) AS requests,
    coalesce(sum(prompt_tokens) FILTER (is_first), 0)::BIGINT AS prompt_tokens,
    coalesce(sum(completion_tokens) FILTER (is_first), 0)::BIGINT AS completion_tokens,
    round(sum(cost) FILTER (is_first), 4) AS cost,
    count(*) FILTER (is_first AND c.request_hash IS NOT NULL AND cost IS NULL) AS requests_of_unknown_cost
FROM counted c LEFT JOIN runs r ON r.run_id = c.run_id
WHERE CAST(c.completed_at AS TIMESTAMP) >= (now() AT TIME ZONE 'UTC') - to_days($days)
GROUP BY ALL
ORDER BY day DESC, c.run_id, c.judge
