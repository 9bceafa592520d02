-- How many hours did each stage take in the runs of the last days?
-- parameter: days = 7, how many days back
SELECT s.stage, count(DISTINCT s.run_id) AS runs, count(*) AS calls, round(sum(s.seconds) / 3600, 3) AS hours,
    round(sum(s.seconds) / nullif(sum(sum(s.seconds)) OVER (), 0), 3) AS share,
    round(max(s.seconds) / 3600, 3) AS longest_hours,
    arg_max(s.run_id, (s.seconds, s.run_id)) FILTER (s.seconds IS NOT NULL) AS longest_in_run
FROM run_stages s JOIN runs r USING (run_id)
WHERE CAST(r.started_at AS TIMESTAMP) >= (now() AT TIME ZONE 'UTC') - to_days($days)
GROUP BY s.stage ORDER BY sum(s.seconds) DESC, s.stage
