-- On which labelled pairs does a judge disagree most with what people preferred?
-- parameter: limit = 20, how many pairs of each judge
WITH asked AS (
    -- a pair that several audits asked about counts in the newest
    SELECT v.artifact, judge, prompt_id AS pair_id, candidate, human,
        count(DISTINCT "order") FILTER (score IS NOT NULL) AS orders_scored, avg(score) AS score
    FROM audit_verdicts v JOIN artifacts a ON a.stage = 'audits' AND a.fingerprint = v.artifact
    GROUP BY v.artifact, a.created_at, judge, prompt_id, candidate, human HAVING orders_scored > 0
    QUALIFY row_number() OVER (PARTITION BY judge, prompt_id ORDER BY a.created_at DESC, v.artifact) = 1
), texts AS (
    SELECT l.child AS artifact, p.pair_id, any_value(p.prompt[-1].content) AS prompt, any_value(p.chosen) AS chosen,
        any_value(p.rejected) AS rejected
    FROM preferences p JOIN lineage l ON l.parent = p.artifact AND l.child_stage = 'audits' GROUP BY ALL
)
SELECT a.judge, a.pair_id, a.orders_scored, round(a.score, 3) AS judge_score, round(a.human, 3) AS people,
    round(abs(a.score - a.human), 3) AS disagreement, t.prompt,
    CASE a.candidate WHEN 'chosen' THEN t.chosen ELSE t.rejected END AS candidate_text,
    CASE a.candidate WHEN 'chosen' THEN t.rejected ELSE t.chosen END AS opponent_text, a.artifact AS audit
FROM asked a LEFT JOIN texts t USING (artifact, pair_id)
QUALIFY row_number() OVER (PARTITION BY a.judge ORDER BY disagreement DESC, a.artifact, a.pair_id) <= $limit
ORDER BY a.judge, disagreement DESC, audit, a.pair_id
