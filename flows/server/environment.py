"""The settings of an installation: where a server keeps its state, and what everything that talks to it needs.

They are environment variables, so that the server, the worker, the runs it starts and a person's shell have the same ones. Does
not import Prefect, which reads them when it is imported.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from flows.inputs import HOME_VARIABLE

HEARTBEAT_VARIABLE = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
HEARTBEAT_SECONDS = 30  # the least Prefect allows; a run that missed three is taken for dead
DATABASE_VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
# Events wait for five seconds or this many and are then written together: each write is one more that SQLite can refuse.
# How long a writer waits is no remedy, see flows/server/log_checks.py, and Prefect has no setting for how a transaction begins.
EVENT_BATCH_VARIABLE = "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE"
# What a person may have set otherwise.
DEFAULTS = {
    HEARTBEAT_VARIABLE: str(HEARTBEAT_SECONDS),
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    EVENT_BATCH_VARIABLE: "200",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
}
# What else a profile tells; the database's address, which may hold a password, is not in it.
PROFILE = ("PREFECT_API_URL", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "PREFECT_RESULTS_LOCAL_STORAGE_PATH")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def prefect_server() -> str | None:
    """The API URL of the Prefect server that the environment or the active profile names; does not import Prefect."""
    url = os.environ.get("PREFECT_API_URL")
    if url:
        return url
    folder = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    path = Path(os.environ.get("PREFECT_PROFILES_PATH", folder / "profiles.toml")).expanduser()
    try:
        profiles = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    found = (profiles.get("profiles", {}).get(name) or {}).get("PREFECT_API_URL")
    return str(found) if found else None


def state_folder(home: Path) -> Path:
    """Where the server of a home keeps its database, settings and logs; nothing lies in ~/.prefect."""
    return home / "prefect"


def address(host: str, port: int) -> str:
    """The address at which processes of this machine reach a server that listens on `host`."""
    name = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def client_environment(home: Path, api_url: str, given: Mapping[str, str]) -> dict[str, str]:
    """`given` with what a worker and its runs need to work for the server at `api_url` and to write into `home`."""
    forced = {
        HOME_VARIABLE: str(home),
        "PREFECT_API_URL": api_url,
        # A process that lost the address fails, and does not start a second, hidden database.
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    }
    # In both spellings: many programs read the small one alone where it is set.
    return DEFAULTS | dict(given) | forced | dict.fromkeys(("no_proxy", "NO_PROXY"), _without_proxy(given))


def server_environment(home: Path, host: str, port: int, database: str, given: Mapping[str, str]) -> dict[str, str]:
    """`client_environment` for an own server with all its state in the home."""
    folder = state_folder(home)
    own = {
        "PREFECT_HOME": str(folder),
        "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(folder / "results"),
        DATABASE_VARIABLE: database or f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
    }
    if password := given.get("PREFECT_SERVER_API_AUTH_STRING"):
        own["PREFECT_API_AUTH_STRING"] = password  # what the server asks for, its worker has to say
    if host not in LOOPBACK:  # browsers of other machines: the address this machine uses would mean theirs
        own["PREFECT_SERVER_UI_API_URL"] = given.get("PREFECT_SERVER_UI_API_URL", "/api")
    return client_environment(home, f"{address(host, port)}/api", given) | own


def write_profile(home: Path, environment: Mapping[str, str]) -> None:
    """The settings as the Prefect profile `srpo`: with PREFECT_HOME=<home>/prefect every `prefect` command uses this server."""
    kept = {name: environment[name] for name in (*DEFAULTS, *PROFILE) if name in environment and name.startswith("PREFECT_")}
    lines = ['active = "srpo"', "", "[profiles.srpo]", *(f"{name} = {json.dumps(value)}" for name, value in kept.items())]
    path = state_folder(home) / "profiles.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def served_url(home: Path) -> str | None:
    """The address of the server that `srpo serve` last started in the home, running or not."""
    try:
        profiles = tomllib.loads((state_folder(home) / "profiles.toml").read_text(encoding="utf-8"))
        return str(profiles["profiles"]["srpo"]["PREFECT_API_URL"])
    except (OSError, ValueError, KeyError):
        return None


def _without_proxy(given: Mapping[str, str]) -> str:
    listed = [one.strip() for name in ("no_proxy", "NO_PROXY") for one in given.get(name, "").split(",") if one.strip()]
    return "*" if "*" in listed else ",".join(dict.fromkeys([*listed, "127.0.0.1", "localhost"]))  # * has to stand alone
