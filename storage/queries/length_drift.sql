-- Do texts grow or shrink from revision to revision, and how long are they beside the gold?
-- parameter: eval_set = any prompts.eval_set, of which evaluation set; without it of each
WITH texts AS (
    SELECT c.policy_id, p.eval_set, c.temperature, c.sampling, c.revision_index, c.num_tokens, length(c.text) AS characters,
        c.finish_reason, list_avg(list_transform(p.gold, lambda text: length(text))) AS gold_characters,
        c.num_tokens - lag(c.num_tokens) OVER (PARTITION BY c.artifact, c.prompt_id, c.sample_index ORDER BY c.revision_index) AS step
    FROM completions c
    JOIN lineage l ON l.child = c.artifact AND l.child_stage = 'completions' AND l.parent_stage = 'prompts'
    JOIN prompts p ON p.artifact = l.parent AND p.prompt_id = c.prompt_id
    WHERE $eval_set IS NULL OR p.eval_set = $eval_set
), means AS (
    SELECT policy_id, eval_set, temperature, sampling, revision_index, count(*) AS texts, avg(num_tokens) AS mean_tokens,
        quantile_cont(num_tokens, 0.9) AS p90_tokens, avg(step) AS change, avg((step > 0)::INT) AS share_longer,
        avg(characters) FILTER (gold_characters IS NOT NULL) / nullif(avg(gold_characters), 0) AS over_gold,
        avg((finish_reason = 'length')::INT) AS share_cut
    FROM texts GROUP BY ALL
)
SELECT m.method, m.name, m.seed, m.beta, t.eval_set, t.temperature, t.sampling, t.revision_index, t.texts,
    round(mean_tokens, 1) AS mean_tokens, round(p90_tokens, 1) AS p90_tokens, round(change, 2) AS tokens_over_revision_before,
    round(share_longer, 3) AS share_longer_than_before,
    round(mean_tokens / nullif(first(mean_tokens) OVER (
        PARTITION BY policy_id, t.eval_set, t.temperature, t.sampling ORDER BY t.revision_index), 0), 3) AS tokens_over_draft,
    round(over_gold, 3) AS characters_over_gold, round(share_cut, 3) AS share_cut_at_max_length, policy_id
FROM means t LEFT JOIN policies m USING (policy_id)
ORDER BY t.eval_set, t.temperature, t.sampling, m.method, m.name, m.seed, m.beta, policy_id, t.revision_index
