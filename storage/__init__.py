"""Artifacts on disk: schemas, atomic Parquet, manifests, leases, journals, and the published results database.

Knows nothing of torch, Prefect or statistics.
"""
