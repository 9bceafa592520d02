"""`ingest_pairs`: the flow of `srpo ingest`, from files or hub sets to labelled preference pairs."""

from prefect import runtime

from flows.under_prefect.forms import form
from flows.under_prefect.stage_artifacts import show_made
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder, setting_of, short_name
from srpo_core.settings.data import PreferenceSourceSettings


def name_ingestion() -> str:
    """What is read, such as `ingest: train.jsonl`."""
    return "ingest: " + ", ".join(map(short_name, setting_of(runtime.flow_run.parameters, "source", "paths") or []))


@form("ingest", name_ingestion)
def ingest_pairs(source: PreferenceSourceSettings, home: str = "") -> str:
    """Read preference pairs; a file read before is not read again. Returns the id of the artifact `preferences`.

    Args:
        source: Files, folders, globs or hub sets, and how to read them.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    from tasks.preferences import ingest_preferences

    return show_made([as_prefect_task(ingest_preferences)(source, home_folder(home))])[0]
