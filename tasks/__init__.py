"""One stage each: fingerprint the inputs, skip if the artifact is complete, else do the work and write it.

| stage | module |
|---|---|
| newsroom | newsroom |
| sources, preferences | preferences |
| demonstrations, prompts, contamination | demonstrations, prompts |
| policies | models (as they come), training |
| reference | reference |
| completions, likelihoods, rewards | generation, likelihoods, rewards |
| games, knockouts | judging, knockouts; who plays: judge_games; any judge's verdicts on any games: deciding |
| audits, sentinels, sentinel_looks | agreement_audit, injection_audit, sentinel |
| diagnostics, equal_compute | diagnostics, equal_compute |
| the database and the report | publishing, reporting |

Beside the stages: `launch` starts the processes that hold a device; `retraining` decides between two policies; `export`,
`model_card` and `hub_upload` hand a policy on; `progress`, `run_summary` and `stage_summary` are what people see of all that.
"""
