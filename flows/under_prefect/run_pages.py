"""Where a flow run is seen: its page in the UI of the Prefect server. Does not import Prefect by itself."""

import sys

CLOUD = "app.prefect.cloud"


def run_page(prefect_run: str | None) -> str | None:
    """The address of a flow run's page; None without a Prefect run, or where the settings name no UI."""
    if prefect_run is None or "prefect" not in sys.modules:
        return None
    from prefect.settings import PREFECT_UI_URL

    base = (PREFECT_UI_URL.value() or "").rstrip("/")
    if not base:
        return None
    version = "" if CLOUD in base else "/v2"  # a server of one's own still has the earlier UI at the addresses without it
    return f"{base}{version}/runs/flow-run/{prefect_run}"
