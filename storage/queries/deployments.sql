-- When did each deployment last run, how did that end, and when did it last complete?
SELECT deployment, count(*) AS runs, count(*) FILTER (state = 'completed') AS completed,
    max(coalesce(started_at, recorded_at)) AS last_started, arg_max(state, (coalesce(started_at, recorded_at), run_id)) AS last_state,
    arg_max_null(failure, (coalesce(started_at, recorded_at), run_id)) AS last_failure,
    max(recorded_at) FILTER (state = 'completed') AS last_completed,
    arg_max(run_id, (coalesce(started_at, recorded_at), run_id)) AS last_run_id,
    arg_max_null(prefect_run, (coalesce(started_at, recorded_at), run_id)) AS last_prefect_run
FROM runs WHERE deployment IS NOT NULL
GROUP BY deployment ORDER BY deployment
