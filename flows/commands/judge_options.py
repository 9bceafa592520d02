"""The options that name a judge, for every command that asks one."""

from typing import Annotated, Any

import typer

from flows.inputs import StageSettings
from srpo_core.errors import InputError

JudgeOption = Annotated[str | None, typer.Option("--judge", help="rule (the newsroom's own), api, reward_model or label_model.")]
JudgeModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME|DIR|HUBID", help="api: as its server knows it; local: a folder or hub model."),
]
BaseUrlOption = Annotated[str | None, typer.Option("--base-url", help="api: for example http://127.0.0.1:8000/v1.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help="api, label_model: the judge prompt.")]


def judge_settings(settings: StageSettings, kind: str | None, **given: Any) -> Any:
    """The judge of the options, put over the section `judge`. Raises InputError when no kind or model is named."""
    from srpo_core.settings import judges

    forms: dict[str, Any] = {
        "rule": judges.RuleJudgeSettings,
        "api": judges.ApiJudgeSettings,
        "reward_model": judges.RewardModelJudgeSettings,
        "label_model": judges.LabelModelJudgeSettings,
    }
    section = settings.values.get("judge", {})
    chosen = kind or section.get("kind") or ("api" if given.get("model") or "model" in section else None)
    if not isinstance(chosen, str) or chosen not in forms:
        raise InputError(
            f"expected --judge rule, or --judge api, reward_model or label_model with --model NAME, found {chosen or 'none'}; "
            "name one of them"
        )
    if section.get("kind") not in (None, chosen):
        settings.values = settings.values | {"judge": {}}
        section = {}
    if chosen != "rule" and not given.get("model") and "model" not in section:
        raise InputError(f"expected --model NAME for --judge {chosen}, found none; name a served model, a folder or a hub model")
    return settings.section("judge", forms[chosen], kind=chosen, **given)
