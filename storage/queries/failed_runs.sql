-- Which runs did not complete, at which stage did they stop, and why?
-- parameter: days = 30, how many days back
WITH stages AS (
    SELECT run_id, arg_max(stage, call) FILTER (len(artifacts) > 0) AS last_complete, arg_max(stage, call) AS last,
        arg_max(len(artifacts), call) = 0 AS is_broken_off, sum(seconds) AS seconds
    FROM run_stages GROUP BY run_id
)
SELECT r.run_id, r.name, r.state, coalesce(
        (SELECT any_value(t.stage) FROM run_stages t WHERE t.run_id = r.run_id AND starts_with(r.failure, t.stage || ':')),
        CASE WHEN s.is_broken_off THEN s.last END) AS failed_stage, r.failure,
    s.last_complete AS last_complete_stage, round(s.seconds, 1) AS seconds, r.started_at, r.recorded_at AS ended_at, r.deployment,
    r.prefect_run, r.prefect_page, r.git_commit
FROM runs r LEFT JOIN stages s USING (run_id)
WHERE r.state NOT IN ('completed', 'running')
    AND CAST(coalesce(r.started_at, r.recorded_at) AS TIMESTAMP) >= (now() AT TIME ZONE 'UTC') - to_days($days)
ORDER BY coalesce(r.started_at, r.recorded_at) DESC, r.run_id
