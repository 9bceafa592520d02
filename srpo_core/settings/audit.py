"""Settings of an audit of a judge: what it is asked about, one class for each kind of audit."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from srpo_core.form_schema import OneOfKinds, Rule, absent, either, given
from srpo_core.settings.base import Settings

ONE_SOURCE = "expected exactly one of preferences and prompts"
ONE_SET = "expected at most one of preferences and frozen"


class AgreementAuditSettings(Settings, title="Agreement with people"):
    """The judge is asked about preference pairs whose label is known."""

    kind: Literal["agreement"] = Field("agreement", description="how often the judge prefers what people preferred")
    preferences: str = Field(min_length=1, description="id of an artifact of stage preferences, see srpo ls preferences")
    max_pairs: int = Field(200, ge=1, description="pairs drawn by lot, each asked in both orders")
    repeats: int = Field(1, ge=1, le=999, description="how often each question is really asked, to measure the judge's own noise")
    seed: int = Field(0, ge=0, description="of the drawing by lot")


class InjectionAuditSettings(Settings, title="Attacks"):
    """The worse of two texts attacks the judge in every way known."""

    form_rules = (Rule({"oneOf": [given("preferences"), given("prompts")]}, ONE_SOURCE),)

    kind: Literal["injections"] = Field("injections", description="how often planted words turn the verdict")
    preferences: str | None = Field(
        None, min_length=1, description="id of an artifact of stage preferences: rejected texts attack; none = prompts"
    )
    prompts: str | None = Field(
        None, min_length=1, description="id of an artifact of stage prompts: empty answers attack the gold; none = preferences"
    )
    max_pairs: int = Field(20, ge=1, description="pairs drawn by lot, each asked in both orders with and without every attack")
    seed: int = Field(0, ge=0, description="of the drawing by lot")

    @model_validator(mode="after")
    def _one_source(self) -> "InjectionAuditSettings":
        if (self.preferences is None) == (self.prompts is None):
            raise ValueError(f"{ONE_SOURCE}, found {'both' if self.prompts else 'neither'}")
        return self


class SentinelAuditSettings(Settings, title="Has it changed?"):
    """Frozen games are asked again, to say whether the judge still answers as when it was calibrated."""

    form_rules = (Rule(either(absent("preferences"), absent("frozen")), ONE_SET),)

    kind: Literal["sentinel"] = Field("sentinel", description="whether the judge changed since its calibration")
    frozen: str | None = Field(
        None, min_length=1, description="id of an artifact of stage sentinels; none = the home's only one, or one of preferences"
    )
    preferences: str | None = Field(
        None,
        min_length=1,
        description="id of an artifact of stage preferences to freeze games of; none = they are frozen",
    )
    num_pairs: int = Field(50, ge=1, description="pairs to freeze, drawn by lot from preferences")
    seed: int = Field(0, ge=0, description="of the drawing of pairs to freeze; another number freezes another set")

    @model_validator(mode="after")
    def _one_set(self) -> "SentinelAuditSettings":
        if self.preferences is not None and self.frozen is not None:
            raise ValueError(f"{ONE_SET}, found both")
        return self


AuditSettings = Annotated[
    AgreementAuditSettings | InjectionAuditSettings | SentinelAuditSettings,
    Field(discriminator="kind"),
    OneOfKinds(AgreementAuditSettings, InjectionAuditSettings, SentinelAuditSettings),
]
