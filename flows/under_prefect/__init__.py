"""What the flows need to be seen and steered in Prefect: forms, names, tasks, logs, artifacts, events, secrets, cancelling.

The order of the work is not here: it stands in `flows/pipeline.py` and `flows/retraining.py`, which run without Prefect too.
"""
