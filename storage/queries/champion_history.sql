-- Who was champion, what was tried against it, and on which evidence was each decision made?
SELECT g.entry, g."at", g.event, g.policy_id, p.name, p.method, p.seed, g.champion_id, c.name AS champion, g."by", g.reason,
    g.comparison, round(g.level, 6) AS level, round(g.cumulative_level, 6) AS cumulative_level,
    g.run_id, g.deployment, g.prefect_run, g.evidence
FROM registry g
LEFT JOIN policies p USING (policy_id)
LEFT JOIN policies c ON c.policy_id = g.champion_id
ORDER BY g.entry
