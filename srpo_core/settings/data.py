"""Where pairs, evaluation prompts and demonstrations come from."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from srpo_core.form_schema import Rule, Schema, both, either, given, implies, within
from srpo_core.settings.base import Settings

Label = str | int | float


LABELS_A: list[Label] = ["a", "A", "a1", "1", 1, "model_a"]


LABELS_B: list[Label] = ["b", "B", "a2", "2", 2, "model_b"]


LABELS_TIE: list[Label] = ["tie", "equal", "0", 0, "tie (bothbad)", "both"]


PREFERENCE_FORMATS = (
    *("auto", "summarize_from_feedback", "ultrafeedback_binarized", "hh_rlhf", "trl", "arena", "alpaca", "shp", "n_way"),
    "columns",
)


PROMPT_FORMATS = ("auto", "frank", "xsum", "cnn_dailymail", "scitldr", "arena_hard", "plain")


def _one_or_function(names: tuple[str, ...]) -> str:
    """The pattern of a name among `names`, or of `file.py:function`."""
    return rf"^({'|'.join(names)}|.+\.py:.+)$"


def _choice_or_function(names: tuple[str, ...]) -> Callable[[Schema], None]:
    """Makes a form offer `names` as choices, and a text for `file.py:function` beside them."""

    def arrange(schema: Schema) -> None:
        choices = [{"type": "string", "enum": list(names), "title": "known"}, {"type": "string", "title": "file.py:function"}]
        del schema["type"]
        schema["anyOf"] = choices

    return arrange


TWO_TEXTS = "expected either chosen and rejected, or text_a, text_b and one of label and votes"


_BY_ROLE = both(given("chosen"), given("rejected"))


_BY_LABEL = both(given("text_a"), given("text_b"), either(given("label"), given("votes")))


class ColumnMapping(Settings, title="Columns"):
    """Which columns of an unrecognised file hold what; give either chosen and rejected, or text_a, text_b and a label."""

    form_rules = (Rule({"oneOf": [_BY_ROLE, _BY_LABEL]}, TWO_TEXTS),)

    prompt: str | list[str] = Field(description="column with the prompt, or several to join")
    chosen: str | None = Field(None, description="column with the preferred text")
    rejected: str | None = Field(None, description="column with the other text")
    text_a: str | None = Field(None, description="column with the first text")
    text_b: str | None = Field(None, description="column with the second text")
    label: str | None = Field(None, description="column with the preferred side")
    label_a: list[Label] = Field(default_factory=lambda: list(LABELS_A), description="values that say text_a is preferred")
    label_b: list[Label] = Field(default_factory=lambda: list(LABELS_B), description="values that say text_b is preferred")
    label_tie: list[Label] = Field(
        default_factory=lambda: list(LABELS_TIE),
        description="values that say neither is preferred",
    )
    votes: str | None = Field(None, description="column with a list of labels, one per vote")
    cluster: str | None = Field(None, description="column that groups rows which must stay in one split")
    join_with: str = Field(" ", description="put between the items where a column is a list of sentences")

    @model_validator(mode="after")
    def _two_texts_and_a_preference(self) -> "ColumnMapping":
        by_role = self.chosen is not None and self.rejected is not None
        by_label = self.text_a is not None and self.text_b is not None and (self.label is not None or self.votes is not None)
        if by_role == by_label:
            raise ValueError(f"{TWO_TEXTS}; found both or neither")
        return self


COLUMNS_WITHOUT_A_FORMAT = "expected format auto or columns beside columns"


class PreferenceSourceSettings(Settings, title="Preference pairs"):
    """Where preference pairs come from (`srpo ingest`)."""

    form_rules = (Rule(implies(given("columns"), within("format", {"enum": ["auto", "columns"]})), COLUMNS_WITHOUT_A_FORMAT),)

    paths: list[str] = Field(min_length=1, description="files, folders, globs, or hub:<dataset id>[@revision][:config][/split]")
    format: str = Field(
        "auto",
        description="how rows are read: auto = by their columns, columns = by the mapping below, or a function of your own",
        pattern=_one_or_function(PREFERENCE_FORMATS),
        json_schema_extra=_choice_or_function(PREFERENCE_FORMATS),
    )
    columns: ColumnMapping | None = Field(
        None, description="which column holds what, for a file of no known format; none = known"
    )
    domain: str = Field(
        "unknown", description="what the texts are about; an evaluation set of another domain is out of distribution"
    )
    max_rows: int | None = Field(None, ge=1, description="read at most this many source rows per path")
    validation_share: float = Field(0.05, ge=0, lt=1, description="share of the clusters held out for validation, in [0, 1)")
    test_share: float = Field(0.0, ge=0, lt=1, description="share of the clusters held out for testing, in [0, 1)")
    cluster_by: Literal["prompt", "column"] = Field(
        "prompt", description="what must stay in one split: rows of one prompt, or of one value of columns.cluster"
    )
    seed: int = Field(0, ge=0, description="of the split")

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "PreferenceSourceSettings":
        if self.validation_share + self.test_share >= 1:
            raise ValueError(f"expected validation_share + test_share below 1, found {self.validation_share + self.test_share:g}")
        return self

    @model_validator(mode="after")
    def _columns_that_are_read(self) -> "PreferenceSourceSettings":
        if self.columns is not None and self.format not in ("auto", "columns"):
            raise ValueError(f"{COLUMNS_WITHOUT_A_FORMAT}, found {self.format}")
        return self


class PromptSourceSettings(Settings, title="Evaluation set"):
    """Where one evaluation set comes from (`srpo ingest-prompts`)."""

    name: str = Field(min_length=1, description="the evaluation set's name in every table")
    path: str = Field(description="a file, a folder, a glob, or hub:<dataset id>[@revision][:config][/split]")
    format: str = Field(
        "auto",
        description="how rows are read: auto = by their columns, or a function of your own",
        pattern=_one_or_function(PROMPT_FORMATS),
        json_schema_extra=_choice_or_function(PROMPT_FORMATS),
    )
    domain: str = Field("unknown", description="what the prompts are about; compared with the training pairs' domain")
    opponent_path: str | None = Field(None, description="answers of a named opponent, joined by id and used as gold")
    max_prompts: int | None = Field(None, ge=1, description="the first so many prompts")


class NewsroomSettings(Settings, title="Newsroom"):
    """The embedded default world; see docs/newsroom.md."""

    num_demonstrations: int = Field(160_000, ge=100, le=10_000_000, description="demonstrations for the supervised stage")
    num_pairs: int = Field(8_000, ge=10, le=10_000_000, description="preference pairs")
    votes_per_pair: int = Field(5, ge=1, description="votes on each pair, one annotator each")
    num_prompts: int = Field(200, ge=10, le=1_000_000, description="evaluation prompts per set")
    seed: int = Field(0, ge=0, description="of the whole world")


class DemonstrationSettings(Settings, title="Demonstrations"):
    """What the supervised stage imitates: a file of demonstrations, or the preference pairs themselves."""

    path: str | None = Field(
        None, description="JSON lines with prompt, completion and optionally draft; none = made from the preferences"
    )
    revisions: Literal["both_ways", "improve", "none"] = Field(
        "both_ways",
        description="how preference pairs become revision examples: both_ways = rejected to chosen and back, so that the "
        "reference's revisions edit neutrally; improve = rejected to chosen only",
    )
