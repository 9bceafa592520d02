"""Commands for the registry of champions: champion (who, since when, on which evidence), promote, rollback."""

import json
from typing import Annotated, Any
from uuid import uuid4

import typer

from flows.commands.options import HomeOption, JsonOption
from flows.commands.output import print_fields, print_json, print_table
from flows.inputs import DEFAULT_HOME, find_policy, open_home
from srpo_core.errors import InputError

ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the registry for good.")]
HISTORY = ("entry", "at", "event", "policy_id", "champion_id", "by", "comparison", "cumulative_level", "reason")


def champion(
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Who is champion, since when and on which evidence, and everything the registry has recorded."""
    from storage.registry import champion_entry, read_registry

    place = open_home(home)
    entries, present = read_registry(place), champion_entry(place)
    shown = None if present is None else _with_evidence(present)
    if as_json:
        print_json({"home": place, "champion": shown, "entries": [_with_evidence(one) for one in entries]})
        return
    if present is None:
        print(f"no champion in {place}; a retraining or `srpo promote POLICY` makes one")
    else:
        print(f"champion {present['champion_id']} since {present['at']}")
        print_fields({name: present[name] for name in ("entry", "by", "reason", "run_id") if present[name] is not None}, "  ")
    if entries:
        print_table(HISTORY, [[one[name] for name in HISTORY] for one in entries])


def promote(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A policy by id or folder, or a model folder or hub model.")],
    reason: ReasonOption,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Make a policy champion by decree: no comparison, no error level spent, but a reason on record."""
    from flows.under_prefect.events import POLICY_PROMOTED
    from storage.registry import champion as present_champion
    from storage.registry import record_decision

    place = open_home(home)
    _require_reason(reason)
    found, present = find_policy(place, policy), present_champion(place)
    if found.fingerprint == present:
        raise InputError(f"expected another policy than the present champion, found {present}; nothing is changed")
    about = {"policy_id": found.fingerprint, "by": "command", "reason": reason.strip()}
    entry = record_decision(place, f"command:{uuid4()}", "promoted", about, against=present)
    _finish(entry, POLICY_PROMOTED, "promote", place, as_json)


def rollback(
    reason: ReasonOption,
    to: Annotated[
        int | None, typer.Option("--to", metavar="ENTRY", help="To who was champion after this entry; none = the one before.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Give the place back to an earlier champion. The same data are not tried again by retraining until there are new pairs."""
    from flows.under_prefect.events import POLICY_ROLLED_BACK
    from storage.artifact import find_artifact
    from storage.registry import record_rollback

    place = open_home(home)
    _require_reason(reason)

    def check(policy_id: str | None) -> None:
        if policy_id is not None and find_artifact(place, "policies", policy_id) is None:
            raise InputError(f"expected policies/{policy_id} in {place} to roll back to, found it gone; name an entry with --to")

    entry = record_rollback(place, f"command:{uuid4()}", {"by": "command", "reason": reason.strip()}, to=to, check=check)
    _finish(entry, POLICY_ROLLED_BACK, "rollback", place, as_json)


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise InputError("expected a reason with --reason, found an empty text; say why in a sentence")


def _finish(entry: dict[str, Any], event: str, command: str, place: Any, as_json: bool) -> None:
    """Tell people's own automations, where there is a server, and print the entry."""
    from flows.under_prefect.events import announce_decision

    announce_decision(event, entry, place, command)
    if as_json:
        print_json(_with_evidence(entry))
    else:
        before = entry["previous_champion_id"] or "none"
        print(f"champion {entry['champion_id'] or 'none'} (before: {before}), entry {entry['entry']} of the registry")
        print("srpo publish puts it into results.duckdb")


def _with_evidence(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {"evidence": None if entry["evidence"] is None else json.loads(entry["evidence"])}


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into `app`."""
    for command in (champion, promote, rollback):
        app.command(command.__name__)(command)
