"""What the end-to-end tests stand on: one `srpo serve`, one page of a headless Chromium, and a picture and the logs on failure.

The browser is the system's Chromium, or the one that CHROMIUM names. With SRPO_SCREENSHOTS=<folder> the demo runs in full size
and the pictures of the documentation are taken: `SRPO_SCREENSHOTS=docs/prefect make e2e` makes those of this repository.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from playwright.sync_api import Error as BrowserError

from flows.server.environment import state_folder
from flows.server.processes import CHECKOUT
from tests.e2e.pictures import Gallery
from tests.prefect_server import free_port

SLOWEST = 90_000  # milliseconds: how long a condition may take on a machine that does other things too
SERVE_SECONDS = 180.0
END_SECONDS = 60.0
TAIL_LINES = 60
TIME_ZONE = "Europe/Berlin"  # of the schedule in prefect.yaml, so that the browser shows its hours
_page: pytest.StashKey[Page] = pytest.StashKey()
_served: pytest.StashKey["Served"] = pytest.StashKey()


class Served(NamedTuple):
    """A running `srpo serve`."""

    url: str  # of the UI
    home: Path
    output: Path

    @property
    def api(self) -> str:
        """Address of the API."""
        return f"{self.url}/api"

    def logs(self) -> list[Path]:
        """What it printed, and the logs of its server and worker."""
        return [self.output, *sorted(state_folder(self.home).glob("*.log"))]


@pytest.fixture(scope="session")
def gallery() -> Gallery:
    """Where pictures for the documentation go, if anywhere."""
    folder = os.environ.get("SRPO_SCREENSHOTS")
    return Gallery(Path(folder) if folder else None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not executable:
        pytest.skip("needs a Chromium: install the package chromium, or name one by CHROMIUM=/path/to/chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def served(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Served]:
    """`srpo serve` with a home and a server of its own; asks for the browser first, so that without one nothing is started."""
    with tempfile.TemporaryDirectory(prefix="srpo-") as folder:
        url, home, output = f"http://127.0.0.1:{free_port()}", Path(folder) / "srpo_home", Path(folder) / "serve.log"
        request.config.stash[_served] = served = Served(url, home, output)
        process = _start(served)
        try:
            _wait_until_served(process, served)
            yield served
        finally:
            _end(process)


@pytest.fixture(scope="session")
def page(browser: Browser, served: Served, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The one page that all tests go on with."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, timezone_id=TIME_ZONE, locale="en-US")
    context.set_default_timeout(SLOWEST)
    expect.set_options(timeout=SLOWEST)
    request.config.stash[_page] = page = context.new_page()
    page.goto(served.url)
    yield page
    context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failure shows where the browser stood and what the server and the worker wrote."""
    report = yield
    if report.failed and item.get_closest_marker("e2e"):
        report.sections += _evidence(item)
    return report


def _evidence(item: pytest.Item) -> list[tuple[str, str]]:
    sections = []
    page, served = item.config.stash.get(_page, None), item.config.stash.get(_served, None)
    if page is not None:
        picture = CHECKOUT / "build" / "e2e" / f"{item.name}.png"
        try:
            page.screenshot(path=picture)
            sections.append(("the browser", f"{page.url}\n{picture}\n{page.locator('body').inner_text()[-2000:]}"))
        except BrowserError as error:
            sections.append(("the browser", str(error)))
    for log in served.logs() if served is not None else []:
        if log.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            sections.append((str(log), "\n".join(lines[-TAIL_LINES:])))
    return sections


def _start(served: Served) -> "subprocess.Popen[bytes]":
    """The command as a person starts it, in a session of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SRPO_"))}
    arguments = ["serve", "--port", served.url.rpartition(":")[2], "--home", str(served.home)]
    with served.output.open("wb") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_hear_ctrl_c,
            env=environment,
            cwd=CHECKOUT,
        )


def _hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's `&` makes its children ignore it


def _wait_until_served(process: "subprocess.Popen[bytes]", served: Served) -> None:
    """Return once the command says where the UI is."""
    until = time.monotonic() + SERVE_SECONDS
    while served.url not in (said := served.output.read_text(encoding="utf-8")):
        if process.poll() is not None or time.monotonic() > until:
            raise AssertionError(f"srpo serve did not say {served.url}: {said}")
        time.sleep(0.2)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ctrl-C; what does not follow it is killed, and that is a failure."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
