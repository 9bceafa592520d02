-- Do revisions still change anything: share unchanged since the revision before, share truncated, length, distinct texts?
SELECT p.method, p.seed, p.beta, c.policy_id, e.eval_set, c.temperature, c.revision_index, count(*) AS completions,
    round(avg((c.text = before.text)::INT) FILTER (c.revision_index > 0), 3) AS share_unchanged,
    round(avg((c.finish_reason = 'length')::INT), 3) AS share_truncated,
    round(avg((trim(c.text) = '')::INT), 3) AS share_empty,
    round(avg(c.num_tokens), 1) AS mean_tokens,
    round(count(DISTINCT c.text) / count(*), 3) AS share_distinct
FROM completions c
LEFT JOIN completions before ON before.artifact = c.artifact AND before.completion_id = c.parent_id
LEFT JOIN policies p ON p.policy_id = c.policy_id
LEFT JOIN (SELECT DISTINCT prompt_id, eval_set FROM prompts) e ON e.prompt_id = c.prompt_id
GROUP BY ALL ORDER BY e.eval_set, c.temperature, p.method, p.seed, p.beta, c.policy_id, c.revision_index
