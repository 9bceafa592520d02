"""Artifacts on disk: schemas, atomic Parquet, manifests, leases, journals, and the published results database.

Knows nothing of torch, Prefect or statistics.
"""

import os

# Arrow's default allocator keeps what each reading thread has freed: a judgement of 100,000 games held 50 MiB more than it used.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
