"""How a pipeline run is called and found in the UI: its name, and tags of its own beside its deployment's.

The server lists runs by tag, so `method:dpo` or `data:train.jsonl` finds every run of one kind whichever deployment started it.
"""

import logging
from typing import Any

from prefect import runtime
from prefect.client.orchestration import get_client

from flows.under_prefect.run_names import judge_called
from flows.under_prefect.stage_tasks import setting_of, short_name
from srpo_core.settings.pipeline import PipelineSettings

SHOWN_SOURCES = 2
LONGEST_TAG = 60  # characters
logger = logging.getLogger("srpo")


def name_run() -> str:
    """The preset's name, the methods and the data, such as `demo: srpo, dpo, ipo on newsroom`; a retraining says so first."""
    parameters = runtime.flow_run.parameters
    pipeline = setting_of(parameters, "settings", "pipeline")
    name = run_name(setting_of(parameters, "settings") if pipeline is None else pipeline)
    return name if pipeline is None else f"retrain {name}"


def run_name(settings: Any) -> str:
    """The name of a run with these settings, given as a model or as the server has them; wrong ones have a name, too."""
    methods = setting_of({"settings": settings}, "settings", "methods") or ["srpo"]
    methods = methods if isinstance(methods, list | tuple) else [methods]
    name = setting_of({"settings": settings}, "settings", "name") or "run"
    return f"{name}: {', '.join(map(str, methods))} on {data_name(settings)}"


def data_name(settings: Any) -> str:
    """The sources of pairs: the first SHOWN_SOURCES, and how many more there are."""
    paths = setting_of({"settings": settings}, "settings", "preferences", "paths") or ["newsroom"]
    paths = paths if isinstance(paths, list | tuple) else [paths]
    shown = [short_name(str(path)) for path in paths[:SHOWN_SOURCES]]
    more = len(paths) - len(shown)
    return ", ".join([*shown, *([f"{more} more"] if more else [])])


def tags_of(settings: PipelineSettings) -> list[str]:
    """What the run is found by: preset, methods, judge and data."""
    methods = [f"method:{one}" for one in settings.methods]
    tags = [f"preset:{settings.name}", *methods, f"judge:{judge_called(settings.judge)}", f"data:{data_name(settings)}"]
    return [tag[:LONGEST_TAG] for tag in dict.fromkeys(tags)]


def tag_run(settings: PipelineSettings) -> None:
    """Add the tags to the flow run that is under way; those it has stay. A server that is away does not stop the run."""
    if not runtime.flow_run.id:
        return
    try:
        with get_client(sync_client=True) as client:
            known = client.read_flow_run(runtime.flow_run.id).tags
            client.update_flow_run(runtime.flow_run.id, tags=list(dict.fromkeys([*known, *tags_of(settings)])))
    except Exception as error:  # noqa: BLE001  (whatever is wrong with the server, the work goes on)
        logger.debug("tags of the run not written: %s", error)
