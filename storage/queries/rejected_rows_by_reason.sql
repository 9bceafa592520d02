-- Which source rows were not used, and why?
SELECT a.stage, r.artifact, r.reason, count(*) AS rows, count(DISTINCT r.file) AS files, arg_min(r.file || ':' || r.line, r.line) AS first_at
FROM rejected_rows r JOIN artifacts a ON a.fingerprint = r.artifact
GROUP BY ALL ORDER BY rows DESC, a.stage, r.artifact, r.reason
