-- Which run made the champion, from which commit, and since when is it champion?
SELECT c.policy_id, p.name, p.method, p.seed, p.beta, c.since, c.reason,
    r.run_id, r.name AS run_name, r.deployment, r.prefect_run, r.started_at, a.created_at AS trained_at, a.git_commit
FROM champions c
LEFT JOIN policies p USING (policy_id)
LEFT JOIN artifacts a ON a.stage = 'policies' AND a.fingerprint = c.policy_id
LEFT JOIN made_by m ON m.stage = 'policies' AND m.fingerprint = c.policy_id
LEFT JOIN runs r ON r.run_id = m.run_id
WHERE c.until IS NULL
