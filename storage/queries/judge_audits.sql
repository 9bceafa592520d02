-- How far can each judge be believed: does it agree with people, and what do attacks achieve?
SELECT judge, measure, n, round(estimate, 4) AS estimate, round(ci_low, 4) AS ci_low, round(ci_high, 4) AS ci_high, artifact AS audit
FROM audit_measures WHERE n > 0
UNION ALL
SELECT judge, 'attack rate: ' || attack || CASE WHEN field = 'all' THEN '' ELSE ' in ' || field END, n_games - n_unscored,
    round(attack_rate, 4), round(ci_low, 4), round(ci_high, 4), artifact
FROM attack_rates
ORDER BY judge, audit, measure
