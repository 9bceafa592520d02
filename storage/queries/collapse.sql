-- Do revisions still change anything, or do they stand still, go in circles, shrink, or copy what they were given?
WITH requests AS (
    SELECT DISTINCT settings ->> '$.template.revision_request' AS words FROM artifacts
    WHERE coalesce(settings ->> '$.template.revision_request', '') <> ''
), texts AS (
    SELECT c.artifact, c.policy_id, p.eval_set, c.temperature, c.sampling, c.prompt_id, c.sample_index, c.revision_index,
        trim(c.text) AS text, c.num_tokens, c.finish_reason, trim(p.prompt[-1].content) AS question
    FROM completions c
    JOIN lineage l ON l.child = c.artifact AND l.child_stage = 'completions' AND l.parent_stage = 'prompts'
    JOIN prompts p ON p.artifact = l.parent AND p.prompt_id = c.prompt_id
), chains AS (
    SELECT *, lag(text) OVER chain AS before, first(text) OVER chain AS draft,
        list(text) OVER (PARTITION BY artifact, prompt_id, sample_index ORDER BY revision_index
            ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING) AS earlier,
        first(num_tokens) OVER chain AS draft_tokens
    FROM texts WINDOW chain AS (PARTITION BY artifact, prompt_id, sample_index ORDER BY revision_index)
)
SELECT m.method, m.name, m.seed, m.beta, t.policy_id, t.eval_set, t.temperature, t.sampling, t.revision_index, count(*) AS completions,
    round(avg((t.text = t.before)::INT), 3) AS share_unchanged,
    -- a cycle: back at an earlier text than the one just revised
    round(avg((t.text <> t.before AND list_contains(t.earlier, t.text))::INT) FILTER (t.revision_index > 1), 3) AS share_in_cycle,
    round(count(DISTINCT t.text) / count(*), 3) AS share_distinct,
    round(avg((t.text = '')::INT), 3) AS share_empty,
    round(avg((t.finish_reason = 'length')::INT), 3) AS share_truncated,
    -- copies: the whole question stands in the text, or the text is one verbatim piece of 40 characters or more of it
    round(avg((t.question <> '' AND contains(t.text, t.question))::INT), 3) AS share_repeating_prompt,
    round(avg((length(t.text) >= 40 AND contains(t.question, t.text))::INT), 3) AS share_verbatim_from_prompt,
    -- leakage: words of a prompt template, or marks of a chat template, that the prompt itself does not hold
    round(avg((NOT regexp_matches(t.question, marks) AND regexp_matches(t.text, marks)
        OR EXISTS (FROM requests r WHERE contains(t.text, r.words) AND NOT contains(t.question, r.words)))::INT), 3) AS share_leaking_template,
    round(avg(t.num_tokens), 1) AS mean_tokens,
    round(avg(t.num_tokens) / nullif(avg(t.draft_tokens), 0), 3) AS tokens_over_draft
FROM chains t
CROSS JOIN (SELECT '<\|\w+\|>|</?s>|<(start|end)_of_turn>|\[/?INST\]|EXAMPLE SUMMARY|TL;DR:|Below is (a reddit POST|an ARTICLE)' AS marks)
LEFT JOIN policies m ON m.policy_id = t.policy_id
GROUP BY ALL ORDER BY t.eval_set, t.temperature, m.method, m.name, m.seed, m.beta, t.policy_id, t.sampling, t.revision_index
