"""`ingest_prompt_set`: the flow of `srpo ingest-prompts`, from a file or hub set to an evaluation set with its gold texts."""

from prefect import runtime

from flows.under_prefect.forms import form
from flows.under_prefect.stage_artifacts import show_made
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder, setting_of
from srpo_core.settings.data import PromptSourceSettings


def name_ingestion() -> str:
    """The evaluation set, such as `ingest prompts: xsum`."""
    return f"ingest prompts: {setting_of(runtime.flow_run.parameters, 'source', 'name')}"


@form("ingest-prompts", name_ingestion)
def ingest_prompt_set(source: PromptSourceSettings, home: str = "") -> str:
    """Read one evaluation set. Returns the id of the artifact `prompts`.

    Args:
        source: Where the prompts and their gold texts lie, and what the set is called in every table.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    from tasks.prompts import ingest_prompts

    return show_made([as_prefect_task(ingest_prompts)(source, home_folder(home))])[0]
