"""What an operator does and sees in Prefect's UI (the V2 one), found by what is written there: labels, roles, sentences.

Everything waits for what it looks for, none sleeps. A page that Prefect does not keep fresh is opened again.
"""

import re
import time
from collections.abc import Callable

from playwright.sync_api import Locator, Page, TimeoutError, expect

PRESSES, PRESS_SECONDS = 3, 15


def open_deployment(page: Page, name: str) -> None:
    """From anywhere: Deployments, searched by name, opened."""
    page.get_by_role("link", name="Deployments", exact=True).first.click()
    page.get_by_role("textbox", name="Search deployments").fill(name)
    page.wait_for_url(re.compile(rf"={name}\b"))  # the search takes effect a moment later, and undoes a click made before
    page.get_by_role("row").get_by_role("link", name=name, exact=True).first.click()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible()


def open_form(page: Page, deployment: str) -> None:
    """The form behind Run, Custom run."""
    open_deployment(page, deployment)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(entry(page, "home")).to_be_visible()  # the last field that every deployment has


def submit_button(page: Page) -> Locator:
    """What starts the run."""
    return page.get_by_role("button", name="Submit", exact=True)


def entry(page: Page, *titles: str) -> Locator:
    """A field or a group of the form, by the titles that lead to it: its title, description, input and error."""
    place: Locator = page.get_by_role("main")
    for title in titles:
        named = place.get_by_text(re.compile(rf"^\s*{re.escape(title)}( \(Optional\))?\s*$")).locator(
            "xpath=ancestor::div[fieldset][1]"
        )
        place = named.first
    return place


def number(page: Page, *titles: str) -> Locator:
    """The number box of a field."""
    return entry(page, *titles).get_by_role("spinbutton").first


def chosen(page: Page, *titles: str) -> Locator:
    """The chosen tab of a field that is one of several kinds, or none."""
    return entry(page, *titles).get_by_role("tab", selected=True).first


def submit(page: Page) -> None:
    """Press Submit, and follow the notice to the page of the run that was made.

    Pressed while the form is still checking what was typed, or while the server is too busy, it does nothing; then it is pressed
    again, as a person would.
    """
    for press in range(1, PRESSES + 1):
        try:
            with page.expect_response(re.compile("create_flow_run"), timeout=PRESS_SECONDS * 1000) as answer:
                submit_button(page).click()
            if answer.value.ok:
                break
            said = f"{answer.value.status}: {answer.value.text()}"
        except TimeoutError:
            said = "no answer"
        assert press < PRESSES, f"pressing Submit made no run: {said}"
    page.get_by_role("button", name="View run").click()
    expect(page.get_by_role("tab", name="Logs")).to_be_visible()


def newest_logs(page: Page) -> Locator:
    """The log of a run's page, newest lines first."""
    page.get_by_role("tab", name="Logs").click()
    page.get_by_role("combobox", name="log sort order").click()
    page.get_by_role("option", name="Newest to oldest").click()
    return page.get_by_role("log")


def reload_until(page: Page, arrived: Callable[[], bool], what: str, seconds: float) -> None:
    """Open the page again until `arrived`. Raises AssertionError in the end."""
    until = time.monotonic() + seconds
    while not arrived():
        assert time.monotonic() < until, f"{what} did not come within {seconds:.0f} s at {page.url}"
        page.reload(wait_until="networkidle")


def cancel_run(page: Page) -> None:
    """The run page's menu, Cancel, and yes."""
    page.get_by_role("main").get_by_role("button", name="Open menu").first.click()
    page.get_by_role("menuitem", name="Cancel").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel Flow Run").click()
