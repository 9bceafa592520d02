-- Which verdicts have no score, and why?
WITH reasons AS (
    SELECT judge, eval_set, method, coalesce(unscored_reason, '(no reason kept)') AS reason, count(*) AS games, min(game_id) AS example_game
    FROM verdicts WHERE score IS NULL GROUP BY ALL
)
SELECT judge, eval_set, method, reason, games,
    round(games / sum(games) OVER (PARTITION BY judge, eval_set, method), 3) AS share_of_unscored, example_game
FROM reasons ORDER BY games DESC, judge, eval_set, method, reason
