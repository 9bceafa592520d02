"""`srpo doctor`: what this installation can run, and what each missing part would need; exit status 1 when one is broken.

Where a Prefect server is configured, or the home's own is running, it is looked at as well (flows/server/installation_checks.py).
"""

import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import HomeOption, JsonOption
from flows.commands.output import print_json, print_table
from flows.inputs import DEFAULT_HOME, open_home
from flows.server.check_line import Check
from flows.server.environment import prefect_server, served_url
from flows.server.processes import answers
from srpo_core.errors import first_line

DISTRIBUTION = "srpo-pipeline"
LOW_DISK_GIB = 2.0
TIMEOUT_SECONDS = 3.0
# Releases that break without an error a user would see, and what they break.
KNOWN_BAD = {
    "fastapi": (">=0.154", "the Prefect 3.8 server does not start with it"),
    "sqlalchemy": (">=2.1", "Prefect 3.8 never creates scheduled runs with it"),
}


def doctor(
    network: Annotated[bool, typer.Option("--network", help="Also try to reach the model hub.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show what this installation can run and what each missing part would need."""
    place = open_home(home)
    checks = [*_python(), *_packages(), *_devices(), *_disk(place), *_keys(), *_prefect(place), *(_hub() if network else [])]
    broken = [check for check in checks if check.status == "broken"]
    if as_json:
        print_json({"ok": not broken, "checks": [check._asdict() for check in checks]})
    else:
        print_table(["part", "status", "found"], [[check.name, check.status, check.found] for check in checks])
        for check in checks:
            if check.needed:
                print(f"{check.name}: {check.needed}")
    if broken:
        raise typer.Exit(1)


def _python() -> Iterator[Check]:
    good = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Check("python", "ok" if good else "broken", found, "" if good else "needs Python 3.11 or newer")


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    for text in _requirements():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Check(requirement.name, "broken", "not installed", f"pip install '{wanted}'")
            continue
        bad, reason = KNOWN_BAD.get(requirement.name.lower(), ("", ""))
        if bad and SpecifierSet(bad).contains(version, prereleases=True):
            yield Check(requirement.name, "broken", version, f"{reason}: pip install '{wanted}'")
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Check(requirement.name, "broken", version, f"outside the range that was tested: pip install '{wanted}'")
        else:
            yield Check(requirement.name, "ok", version)


def _requirements() -> list[str]:
    """The requirements this checkout states, or those it was installed with."""
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if file.is_file():
        return list(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"])
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []


def _devices() -> Iterator[Check]:
    try:
        import torch
    except Exception as error:  # noqa: BLE001  (a broken installation fails in many ways)
        yield Check(
            "device",
            "broken",
            f"torch does not load: {first_line(error)}",
            "reinstall torch",
        )
        return
    if not torch.cuda.is_available():
        built = torch.version.cuda or "none"
        found = f"CPU, {os.cpu_count()} cores; no CUDA device (torch is built for CUDA {built})"
        yield Check(
            "device",
            "ok",
            found,
            "the demo runs on it; models beyond a few hundred million weights need a CUDA GPU and its torch build",
        )
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        bfloat16 = "with" if torch.cuda.is_bf16_supported() else "without"
        yield Check("device", "ok", f"GPU {index}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB, {bfloat16} bfloat16")


def _disk(home: Path) -> Iterator[Check]:
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 2**30
    needed = "" if free >= LOW_DISK_GIB else f"the demo needs about {LOW_DISK_GIB:.0f} GiB, a 1B model with its policies 20"
    yield Check("disk", "ok" if free >= LOW_DISK_GIB else "absent", f"{free:.1f} GiB free at {home}", needed)
    if not os.access(place, os.W_OK):
        yield Check("home", "broken", f"{place} is not writable", "name another folder with --home or SRPO_HOME")


def _keys() -> Iterator[Check]:
    if os.environ.get("OPENAI_API_KEY"):
        yield Check("OPENAI_API_KEY", "ok", "set")
    else:
        yield Check(
            "OPENAI_API_KEY", "absent", "not set", "an api judge of OpenAI needs it; the rule judge and most local servers do not"
        )


def _prefect(home: Path) -> Iterator[Check]:
    configured = prefect_server()
    url = configured or served_url(home)
    if url is not None and answers(url, TIMEOUT_SECONDS):
        yield Check("prefect server", "ok", url, "" if configured else f"for prefect commands: export PREFECT_API_URL={url}")
        yield from _installation(url)
        yield from _server_log(home, url)
    elif configured is not None:
        yield Check(
            "prefect server",
            "broken",
            f"{url} does not answer",
            "start it, or unset PREFECT_API_URL (or leave the Prefect profile)",
        )
    else:
        yield Check(
            "prefect server",
            "absent",
            f"not running at {url}" if url else "not configured",
            "srpo run needs none; schedules and the UI need one: srpo serve, or set PREFECT_API_URL to a server's",
        )


def _installation(url: str) -> Iterator[Check]:
    try:
        from flows.server.installation_checks import check_installation

        yield from check_installation({**os.environ, "PREFECT_API_URL": url})
    except Exception as error:  # noqa: BLE001  (a server of another version, or one that goes away, answers in many ways)
        yield Check(
            "prefect server",
            "broken",
            f"{type(error).__name__}: {first_line(error)}",
            "its log tells more; that of srpo serve is in the home",
        )


def _server_log(home: Path, url: str) -> Iterator[Check]:
    """Of the home's own server; the log of another is elsewhere."""
    from flows.server.log_checks import check_server_log

    found = check_server_log(home) if url == served_url(home) else None
    if found is not None:
        yield found


def _hub() -> Iterator[Check]:
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    reached = _answers(f"{url.rstrip('/')}/api/models?limit=1")
    needed = "" if reached else "hub models and data sets need it; local folders and files work without"
    yield Check("model hub", "ok" if reached else "absent", f"{url} {'answers' if reached else 'does not answer'}", needed)


def _answers(url: str) -> bool:
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT_SECONDS) as reply:
            return 200 <= reply.status < 300
    except (OSError, ValueError):
        return False


def add_commands(app: typer.Typer) -> None:
    """Put the command of this file into `app`."""
    app.command("doctor")(doctor)
