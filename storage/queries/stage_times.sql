-- How long did each stage of a run take, and how much of it was there already?
-- parameter: run_id = any runs.run_id, of which run; without it of each
WITH calls AS (
    SELECT run_id, stage, min(call) AS first_call, count(*) AS calls, sum(seconds) AS seconds, flatten(list(artifacts)) AS artifacts
    FROM run_stages WHERE $run_id IS NULL OR run_id = $run_id GROUP BY run_id, stage
), used AS (
    SELECT run_id, stage || '/' || fingerprint AS artifact, m.run_id IS NOT DISTINCT FROM r.run_id AS is_made
    FROM runs r JOIN run_artifacts u USING (run_id) JOIN artifacts a USING (stage, fingerprint, digest)
    LEFT JOIN made_by m USING (stage, fingerprint)
)
SELECT c.run_id, r.name, r.state, r.started_at, c.stage, c.calls,
    count(u.artifact) FILTER (u.is_made) AS made, count(u.artifact) FILTER (NOT u.is_made) AS reused,
    round(c.seconds, 1) AS seconds, round(c.seconds / nullif(sum(c.seconds) OVER (PARTITION BY c.run_id), 0), 3) AS share_of_run
FROM calls c JOIN runs r USING (run_id)
LEFT JOIN used u ON u.run_id = c.run_id AND list_contains(c.artifacts, u.artifact)
GROUP BY c.run_id, r.name, r.state, r.started_at, c.stage, c.calls, c.first_call, c.seconds
ORDER BY r.started_at DESC, c.run_id, c.first_call
