-- Has a judge changed since its answers to the frozen games were calibrated?
SELECT judge, sentinel, look_index, looked_at, models_answered, n_asked, n_unscored, round(mean_score, 4) AS mean_score,
    round(shift, 4) AS shift, round(shift_p_value, 4) AS shift_p_value, round(flip_rate, 4) AS flip_rate,
    round(calibration_flip_rate, 4) AS calibration_flip_rate, round(flip_p_value, 4) AS flip_p_value, alarm
FROM sentinel_looks ORDER BY judge, sentinel, look_index
