-- What did each run find complete and use again, and which run had made it?
-- parameter: run_id = any runs.run_id, of which run; without it of each
SELECT r.run_id, r.name, r.started_at, u.stage, u.fingerprint, a.created_at AS made_at, m.run_id AS made_by,
    a.rows, round(a.bytes / 1048576, 2) AS mib
FROM runs r JOIN run_artifacts u USING (run_id) JOIN artifacts a USING (stage, fingerprint, digest)
LEFT JOIN made_by m USING (stage, fingerprint)
WHERE m.run_id IS DISTINCT FROM r.run_id AND ($run_id IS NULL OR r.run_id = $run_id)
ORDER BY r.started_at DESC, r.run_id, a.created_at, u.stage, u.fingerprint
