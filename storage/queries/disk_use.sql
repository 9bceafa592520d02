-- How much disk does each stage take, and how much of it does no recorded run use?
WITH RECURSIVE used AS (
    SELECT stage, fingerprint FROM run_artifacts
    UNION
    SELECT l.parent_stage, l.parent FROM used u JOIN lineage l ON l.child_stage = u.stage AND l.child = u.fingerprint
)
SELECT a.stage, count(*) FILTER (complete) AS artifacts, count(*) FILTER (NOT complete) AS not_complete,
    sum(rows)::BIGINT AS rows, round(sum(bytes) / 1048576, 2) AS mib, round(sum(bytes) / nullif(sum(sum(bytes)) OVER (), 0), 3) AS share,
    round(max(bytes) / 1048576, 2) AS largest_mib, arg_max(a.fingerprint, (bytes, a.fingerprint)) AS largest,
    round(coalesce(sum(bytes) FILTER (u.fingerprint IS NULL), 0) / 1048576, 2) AS mib_of_no_run
FROM artifacts a LEFT JOIN used u USING (stage, fingerprint)
GROUP BY a.stage ORDER BY sum(bytes) DESC, a.stage
