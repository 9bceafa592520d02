-- In which settings do two runs differ?
-- parameter: run_id = any runs.run_id, one run; without it the newest other than other_run_id
-- parameter: other_run_id = any runs.run_id, the other run; without it the newest before run_id
WITH dated AS (
    SELECT run_id, record -> '$.settings' AS settings, (coalesce(started_at, recorded_at, ''), run_id) AS position FROM runs
), one AS (
    SELECT * FROM dated WHERE run_id = coalesce($run_id, (
        SELECT arg_max(run_id, position) FROM dated WHERE run_id IS DISTINCT FROM $other_run_id))
), other AS (
    SELECT * FROM dated WHERE run_id = coalesce($other_run_id, (
        SELECT arg_max(d.run_id, d.position) FROM dated d WHERE d.position < (SELECT position FROM one)))
), values_of_one AS (
    SELECT run_id, t.fullkey, t.atom ->> '$' AS atom FROM one, json_tree(one.settings) t WHERE t.type NOT IN ('OBJECT', 'ARRAY')
), values_of_other AS (
    SELECT run_id, t.fullkey, t.atom ->> '$' AS atom FROM other, json_tree(other.settings) t WHERE t.type NOT IN ('OBJECT', 'ARRAY')
)
SELECT substr(fullkey, 3) AS setting, a.atom AS value, b.atom AS other_value,
    (SELECT run_id FROM one) AS run_id, (SELECT run_id FROM other) AS other_run_id
FROM values_of_one a FULL JOIN values_of_other b USING (fullkey)
WHERE a.atom IS DISTINCT FROM b.atom AND EXISTS (FROM other)
ORDER BY setting
