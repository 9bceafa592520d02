-- How many verdicts had no score, and why, week by week?
-- parameter: weeks = 8, how many weeks back
WITH judged AS (
    SELECT date_trunc('week', CAST(a.created_at AS TIMESTAMP))::DATE AS week, v.judge, v.score IS NULL AS is_unscored,
        CASE WHEN v.score IS NULL THEN coalesce(v.unscored_reason, '(no reason kept)') END AS reason
    FROM verdicts v JOIN artifacts a ON a.stage = 'games' AND a.fingerprint = v.games_artifact
    WHERE CAST(a.created_at AS TIMESTAMP) >= date_trunc('week', now() AT TIME ZONE 'UTC') - to_weeks($weeks - 1)
), totals AS (
    SELECT week, judge, count(*) AS verdicts, count(*) FILTER (is_unscored) AS unscored FROM judged GROUP BY ALL
), reasons AS (
    SELECT week, judge, reason, count(*) AS times FROM judged WHERE is_unscored GROUP BY ALL
)
SELECT week AS week_from, judge, verdicts, unscored, round(unscored / verdicts, 4) AS share_unscored, reason, times
FROM totals LEFT JOIN reasons USING (week, judge)
ORDER BY week_from DESC, judge, times DESC, reason
