"""Games decided by a model on this machine's devices: a reward model, or a language model choosing between labels.

Games come as a stream and are written to a folder in numbered parts, with the distinct questions that they ask beside them; one
launch answers all questions, and verdicts are read back part by part, so that memory does not grow with the number of games. A
file of answers is named by what was asked and of whom: given the same games, an attempt after a kill computes only the files that
are not there. The folder is the caller's to delete.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from srpo_core.errors import InputError, WorkFailed
from srpo_core.judging.judge_presets import find_preset
from srpo_core.judging.judges import JudgeGame, Verdict
from srpo_core.judging.local_judges import ANSWERS, QUESTIONS, TOO_LONG, Answer, LocalSettings, Question, questions_of, verdict_of
from srpo_core.records import Prompt
from srpo_core.settings.resources import Resources
from srpo_core.workers.jobs import JudgeJob
from storage import parquet
from storage.artifact import hash_of
from storage.schemas import MESSAGES
from tasks.launch import run_jobs
from tasks.models import ModelFiles, locate_model

VERSION = 1
QUESTIONS_PER_PART = 256  # a part ends with the prompt that fills it, for a prompt's questions share most of their tokens,
MOST_QUESTIONS = 4096  # unless a single prompt has more than these
GAMES_ASKED = pa.schema(
    [
        ("game_id", pa.string()),
        ("prompt", MESSAGES),
        ("prompt_id", pa.string()),
        ("candidate_id", pa.string()),
        ("candidate_text", pa.string()),
        ("opponent_id", pa.string()),
        ("opponent_text", pa.string()),
        ("order", pa.string()),
        ("repeat_index", pa.int32()),
        ("asked", pa.list_(pa.int32())),  # rows of the part's questions
    ]
)
logger = logging.getLogger("srpo.judge")


def decide_locally(
    games: Iterable[JudgeGame], settings: LocalSettings, resources: Resources, folder: Path, about: str = "games"
) -> Iterator[tuple[JudgeGame, Verdict]]:
    """Every game with its verdict, in the order given, once all of them are answered; `folder` keeps what is computed,
    `about` says in progress lines whose games these are.

    A question whose prompt had to be cut says so in its verdict, one that does not fit at all is unscored; both are counted in
    a warning. Raises InputError for a model that cannot be had or cannot judge, and WorkFailed when the work fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = find_judge_model(settings)
    parts = [part.write(folder, number, settings, model) for number, part in enumerate(_split(games, settings))]
    _answer(parts, settings, model, resources, folder, about)
    facts = _facts(settings, model)
    cut = too_long = 0
    for number, digest in enumerate(parts):
        for game, verdict in _read_verdicts(folder, number, digest, settings, facts):
            cut += bool(verdict.prompt_truncated) and verdict.score is not None
            too_long += verdict.unscored_reason == TOO_LONG
            yield game, verdict
    if cut or too_long:
        logger.warning(
            "%d games were judged by prompts without their end, and %d are unscored, because they exceed what the judge reads; "
            "give it a larger judge.max_length if it can read more",
            cut,
            too_long,
        )


def describe_local_judge(settings: LocalSettings) -> dict[str, Any]:
    """What of a local judge's settings changes its numbers, the weights by what they are. Raises like `find_judge_model`."""
    chosen = _asked_of(settings, find_judge_model(settings))
    return chosen | ({"temperature": settings.temperature} if settings.kind == "reward_model" else {})


def find_judge_model(settings: LocalSettings) -> ModelFiles:
    """The judge's files, downloaded where they are not here yet.

    Raises InputError for a model that cannot be had, and for one that its configuration says is of another kind, so that this
    does not show only when there are games to judge.
    """
    model = locate_model(settings.model, settings.revision)
    names = _architectures(model.folder / "config.json")
    is_classifier = any("SequenceClassification" in name for name in names)
    if names and is_classifier != (settings.kind == "reward_model"):
        wanted = "sequence classifier" if settings.kind == "reward_model" else "language model"
        other = "label_model" if settings.kind == "reward_model" else "reward_model"
        raise InputError(
            f"expected a {wanted} for judge {settings.kind}, found {', '.join(names)} in {settings.model}; "
            f"name another model, or use judge {other}"
        )
    return model


def _architectures(config: Path) -> list[str]:
    """Of a model's configuration; none of an adapter's, which has no such file."""
    try:
        return list(json.loads(config.read_text(encoding="utf-8")).get("architectures") or [])
    except FileNotFoundError:
        return []
    except (ValueError, AttributeError) as error:
        raise InputError(f"expected a model's configuration in {config}, found unusable content ({error}); restore it") from error


def _asked_of(settings: LocalSettings, model: ModelFiles) -> dict[str, Any]:
    """What changes the answers of a model."""
    chosen = {"kind": settings.kind, "model": model.origin, "dtype": settings.dtype, "max_length": settings.max_length}
    if settings.kind == "reward_model":
        return chosen | {"good_label": settings.good_label}
    return chosen | {"preset": settings.preset, "preset_hash": find_preset(settings.preset).hash}


def _facts(settings: LocalSettings, model: ModelFiles) -> dict[str, Any]:
    """What every verdict says of its judge."""
    name, (_, version) = settings.model.rstrip("/").rsplit("/", 1)[-1], list(model.origin.items())[-1]
    parameters = settings.model_dump(exclude={"kind", "model", "revision"})
    return {
        "judge_model": settings.model,
        "model_answered": f"{name}@{version[:12]}",
        "parameters": json.dumps(parameters, sort_keys=True),
        "prompt_hash": find_preset(settings.preset).hash if settings.kind == "label_model" else None,
    }


class _Part:
    """Games of whole prompts, and their questions, each once."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.questions: dict[str, Question] = {}  # by content
        self._places: dict[str, int] = {}
        self._prompt: Prompt | None = None

    def is_full_before(self, game: JudgeGame) -> bool:
        """Whether `game` is for the next part."""
        size = len(self.questions)
        return size >= MOST_QUESTIONS or (size >= QUESTIONS_PER_PART and game.prompt != self._prompt)

    def add(self, game: JudgeGame, settings: LocalSettings) -> None:
        asked = []
        for question in questions_of(game, settings):
            key = hash_of(question)
            self.questions.setdefault(key, question)
            asked.append(self._places.setdefault(key, len(self._places)))
        self.rows.append(asdict(game) | {"asked": asked})
        self._prompt = game.prompt

    def write(self, folder: Path, number: int, settings: LocalSettings, model: ModelFiles) -> str:
        """Write games and questions; returns what names the questions and their answers."""
        digest = hash_of([VERSION, _asked_of(settings, model), list(self.questions)])
        parquet.write_rows(_games_file(folder, number), self.rows, GAMES_ASKED)
        parquet.write_rows(_questions_file(folder, digest), [one._asdict() for one in self.questions.values()], QUESTIONS)
        return digest


def _split(games: Iterable[JudgeGame], settings: LocalSettings) -> Iterator[_Part]:
    part = _Part()
    for game in games:
        if part.is_full_before(game):
            yield part
            part = _Part()
        part.add(game, settings)
    if part.rows:
        yield part


def _answer(parts: list[str], settings: LocalSettings, model: ModelFiles, resources: Resources, folder: Path, about: str) -> None:
    """One launch for all files without answers, if there are any."""
    files = {str(_questions_file(folder, digest).resolve()): str(_answers_file(folder, digest).resolve()) for digest in parts}
    missing = {source: target for source, target in files.items() if not Path(target).exists()}
    if missing:
        job = JudgeJob(name=about, model_folder=str(model.folder), settings=settings, files=missing)
        run_jobs("judge", [job], resources, folder)


def _read_verdicts(
    folder: Path, number: int, digest: str, settings: LocalSettings, facts: dict[str, Any]
) -> Iterator[tuple[JudgeGame, Verdict]]:
    path = _answers_file(folder, digest)
    if not path.exists():
        raise WorkFailed(f"expected the judge's answers in {path}, found none; run it again")
    answers = [Answer(**row) for row in parquet.read_table([path], ANSWERS).to_pylist()]
    for row in parquet.iterate_rows([_games_file(folder, number)]):
        asked = row.pop("asked")
        game = JudgeGame(**row)
        yield game, verdict_of(game, [answers[place] for place in asked], settings, facts)


def _games_file(folder: Path, number: int) -> Path:
    return folder / f"games-{number:06d}.parquet"


def _questions_file(folder: Path, digest: str) -> Path:
    return folder / f"questions-{digest}.parquet"


def _answers_file(folder: Path, digest: str) -> Path:
    return folder / f"answers-{digest}.parquet"
