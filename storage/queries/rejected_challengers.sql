-- Which challengers were rejected in the last days, and why?
-- parameter: days = 7, how many days back
SELECT g.entry, g."at", g.policy_id, p.name, p.method, p.seed, p.beta, g.reason, g.champion_id, c.name AS champion, g."by",
    g.comparison, round(g.cumulative_level, 6) AS cumulative_level, g.run_id, g.deployment, g.prefect_run, g.evidence
FROM registry g
LEFT JOIN policies p USING (policy_id)
LEFT JOIN policies c ON c.policy_id = g.champion_id
WHERE g.event = 'rejected' AND CAST(g."at" AS TIMESTAMP) >= (now() AT TIME ZONE 'UTC') - to_days($days)
ORDER BY g.entry DESC
