"""What names a judge: the settings that change its verdicts, and the name it has in tables."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from srpo_core.judging.judge_presets import find_preset
from srpo_core.judging.judges import resolve_base_url
from srpo_core.judging.verdict_parsing import PARSER_VERSION
from srpo_core.settings.judges import ApiJudgeSettings, JudgeSettings, LabelModelJudgeSettings, RewardModelJudgeSettings
from storage.artifact import hash_of

Listing = tuple[tuple[str, int, int], ...]  # name, size and time of change of each file


def fingerprint_settings(settings: JudgeSettings) -> dict[str, Any]:
    """What of a judge's settings changes its verdicts; the rest is speed, prices, patience and how often it is asked.

    Raises InputError for an unknown preset and for a local model that cannot be had.
    """
    if isinstance(settings, ApiJudgeSettings):
        chosen = settings.model_dump(include={"kind", "model", "preset", "temperature", "max_tokens", "structured"})
        return chosen | {"base_url": resolve_base_url(settings), "preset_hash": find_preset(settings.preset).hash}
    if isinstance(settings, RewardModelJudgeSettings | LabelModelJudgeSettings):
        return dict(_describe(settings, _listing(settings.model)))
    return {"kind": settings.kind}


def parser_settings(settings: JudgeSettings) -> dict[str, Any]:
    """What of the reading of replies changes verdicts: part of what is asked of a judge, not of its name.

    Only an api judge's replies are read; the first parser adds nothing.
    """
    return {"parser": PARSER_VERSION} if isinstance(settings, ApiJudgeSettings) and PARSER_VERSION > 1 else {}


def judge_name(settings: JudgeSettings) -> str:
    """The judge in tables: rule, or model:preset:hash, where the hash tells apart what changes verdicts."""
    digest = hash_of(fingerprint_settings(settings), 6)
    if isinstance(settings, ApiJudgeSettings):
        return f"{settings.model}:{settings.preset}:{digest}"
    if isinstance(settings, LabelModelJudgeSettings):
        return f"{Path(settings.model).name}:{settings.preset}:{digest}"
    if isinstance(settings, RewardModelJudgeSettings):
        return f"{Path(settings.model).name}:reward:{digest}"
    return settings.kind


def is_other_model(answered: str, asked: str) -> bool:
    """Servers add a version (gpt-x-2025-01-01, name@main) or drop a folder; anything else is another model."""
    return not answered.startswith(asked) and not asked.endswith(answered)


@lru_cache(maxsize=64)
def _describe(settings: RewardModelJudgeSettings | LabelModelJudgeSettings, listing: Listing) -> dict[str, Any]:
    """Hashing gigabytes of weights takes a while, so it is done again only when a file of the folder has changed."""
    from tasks.local_judging import describe_local_judge

    return describe_local_judge(settings)


def _listing(model: str) -> Listing:
    """Of a folder; a hub model has none, and is resolved once a process."""
    folder = Path(model)
    if not folder.is_dir():
        return ()
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
