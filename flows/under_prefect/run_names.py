"""Names of flow runs of single stages: by what a person calls the artifacts and the judge that their parameters name.

A name is only shown: what cannot be looked up is named as it was given.
"""

from collections.abc import Mapping
from typing import Any

from flows.endings import EXPECTED
from flows.inputs import find_input
from flows.under_prefect.stage_tasks import home_folder, setting_of, short_name

SHOWN = 3


def called(parameters: Mapping[str, Any], stage: str, named: Any) -> str:
    """What a person calls the artifacts of `stage` that a parameter names by id or path: one name, or several with commas."""
    texts = [str(one) for one in (named if isinstance(named, list | tuple) else [named]) if one]
    shown = [_called(str(setting_of(parameters, "home") or ""), stage, text) for text in texts[:SHOWN]]
    return ", ".join([*shown, *(["…"] if len(texts) > SHOWN else [])]) or "nothing"


def judge_called(judge: Any) -> str:
    """What a person calls a judge, given as a model or as the server has it: its model's name or folder, else its kind."""
    model = setting_of({"judge": judge}, "judge", "model")
    return short_name(str(model)) if model else str(setting_of({"judge": judge}, "judge", "kind"))


def _called(home: str, stage: str, text: str) -> str:
    from storage.names import name_artifact

    try:
        artifact = find_input(home_folder(home), stage, text)
        return name_artifact(artifact) or artifact.fingerprint[:8]
    except (*EXPECTED, OSError):
        return short_name(text)
