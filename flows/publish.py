"""`publish_home`: the flow of `srpo publish` and `srpo report`, everything in a home as one database and one page."""

from flows.under_prefect.forms import form
from flows.under_prefect.stage_artifacts import show_published
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder


@form("publish", "publish")
def publish_home(home: str = "") -> str:
    """Build results.duckdb and report.html anew from the artifacts. Returns the database's path.

    Args:
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    from tasks.publishing import publish_results
    from tasks.reporting import write_report

    folder = home_folder(home)
    database = as_prefect_task(publish_results)(folder)
    report = as_prefect_task(write_report)(folder)
    show_published(database, report)
    return str(database)
