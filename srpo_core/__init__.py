"""The method: records, prompts, token tries, log-probs, losses, training, decoding, judging, statistics.

Knows nothing of Prefect or DuckDB, so a notebook can use each step by itself.
"""
