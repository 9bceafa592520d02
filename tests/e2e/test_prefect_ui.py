"""The whole thing as an operator meets it: one `srpo serve`, its UI in a headless Chromium, a real worker, real training.

The tests go through one story, in the order of the file: the form, a wrong value, a run to its end, the schedule, a cancelled
run. The run is the demo with smaller sizes, which the browser types into the form, so that all of it takes minutes; with
SRPO_SCREENSHOTS it is the whole demo (see conftest.py).
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime

import httpx
import psutil
import pytest
from playwright.sync_api import Page, expect

from flows.presets import resolve_settings
from flows.server.processes import CHECKOUT
from srpo_core.settings.base import Settings
from tests.e2e import prefect_ui as ui
from tests.e2e.conftest import Served
from tests.e2e.pictures import Gallery

pytestmark = pytest.mark.e2e

RUN_SECONDS, START_SECONDS = 1200.0, 300.0  # a tenth of it on two quiet cores
SMALL = {
    ("Newsroom", "Number of demonstrations"): "16000",
    ("Newsroom", "Number of pairs"): "2000",
    ("Newsroom", "Number of prompts"): "40",
    ("Generation", "Number of revisions"): "3",
}
CANCEL_SECONDS = 15.0  # ten for the training to save its checkpoint and end, and what the worker needs to notice
STEP = re.compile(r"step [\d,]+/[\d,]+: .*loss \d")
MONDAY = 0
# So many pictures are on the page and all can be drawn; asked again until it holds, for the page replaces them while it loads.
DRAWN = """count => {
    const pictures = [...document.querySelectorAll("main img")];
    const drawn = Promise.all(pictures.map(one => one.decode().then(() => one.naturalWidth > 0)));
    return pictures.length === count && drawn.then(all => all.every(Boolean), () => false);
}"""


@pytest.fixture(scope="module")
def run_page(page: Page, gallery: Gallery) -> str:
    """Address of the page of a run of the demo that was started by the form."""
    ui.open_form(page, "demo")
    if not gallery.is_open:
        for titles, size in SMALL.items():
            ui.number(page, *titles).fill(size)
        for method in ("dpo", "ipo"):
            ui.entry(page, "Methods").get_by_role("button", name=f"Remove {method} tag").click()
        ui.entry(page, "Diagnostics").get_by_role("tab", name="none").click()
    ui.submit(page)
    expect(page.get_by_role("main").get_by_text(re.compile(r"^demo: srpo.* on newsroom$")).first).to_be_visible()
    return page.url


def test_the_form_shows_every_setting_with_its_title_and_meaning_and_the_presets_values(page: Page, served: Served) -> None:
    ui.open_form(page, "demo")
    text = " ".join(page.get_by_role("main").inner_text().split())
    for model in groups(resolve_settings("demo", None, [])):
        for name, field in type(model).model_fields.items():
            assert field.description and " ".join(field.description.split()) in text, name
    for titles, value in {
        ("Newsroom", "Number of demonstrations"): "160000",
        ("Model", "Small", "Hidden size"): "96",
        ("Supervised", "Learning rate"): "0.002",
        ("Training", "Learning rate"): "0.0001",
        ("Training", "Beta"): "0.1",
        ("Generation", "Number of revisions"): "5",
        ("Diagnostics", "Number of prompts"): "24",
        ("Resources", "Number of processes"): "2",
    }.items():
        expect(ui.number(page, *titles)).to_have_value(value)
    expect(ui.chosen(page, "Newsroom")).to_have_text("Newsroom")
    expect(ui.chosen(page, "Preferences")).to_have_text("none")
    expect(ui.chosen(page, "Judge")).to_have_text("Newsroom's rule")


def test_the_form_offers_valid_choices_only(page: Page, served: Served) -> None:
    ui.open_form(page, "demo")
    page.get_by_role("button", name="Select Methods").click()
    expect(page.get_by_role("option")).to_have_text(["srpo", "dpo", "ipo", "dpo_both", "ipo_both"])
    page.keyboard.press("Escape")
    page.get_by_role("button", name=re.compile("^Select Layout")).click()
    expect(page.get_by_role("option")).to_have_text(["auto", "trie", "packed_trie", "plain"])
    page.keyboard.press("Escape")


def test_a_wrong_value_is_refused_beside_its_field_with_the_command_lines_sentence(
    page: Page, served: Served, gallery: Gallery
) -> None:
    before = number_of_runs(served)
    ui.open_form(page, "demo")
    ui.number(page, "Training", "Beta").fill("-1")
    ui.submit_button(page).click()
    sentence = "-1 is less than or equal to the minimum of 0"
    expect(ui.entry(page, "Training", "Beta")).to_contain_text(sentence)
    ui.number(page, "Training", "Beta").scroll_into_view_if_needed()
    gallery.take(page, "form")
    assert sentence in refusal_of_the_command_line("training.beta=-1")
    assert number_of_runs(served) == before


def test_a_value_out_of_range_does_not_leave_the_browser(page: Page, served: Served) -> None:
    before = number_of_runs(served)
    ui.open_form(page, "demo")
    revisions = ui.number(page, "Generation", "Number of revisions")
    revisions.fill("51")
    ui.submit_button(page).click()
    assert revisions.evaluate("box => box.validationMessage") == "Value must be less than or equal to 50."
    expect(ui.submit_button(page)).to_be_visible()
    assert number_of_runs(served) == before


def test_progress_moves_while_the_run_trains(page: Page, run_page: str) -> None:
    page.goto(run_page)
    page.get_by_role("tab", name="Artifacts").click()
    card = page.get_by_role("link").filter(has=page.get_by_role("heading", name="sft", exact=True))
    ui.reload_until(page, lambda: card.count() > 0, "a progress artifact", START_SECONDS)
    seen: set[str] = set()

    def moved() -> bool:
        page.get_by_role("tab", name="Artifacts").click()
        seen.add(re.findall(r"step ([\d,]+)/", card.first.inner_text())[0])
        return len(seen) > 1

    ui.reload_until(page, moved, "a second state of the progress", START_SECONDS)


def test_the_runs_log_tells_step_metrics(page: Page, run_page: str) -> None:
    page.goto(run_page)
    expect(ui.newest_logs(page).get_by_text(STEP).first).to_be_visible(timeout=START_SECONDS * 1000)


def test_a_worker_is_ready_and_one_run_at_a_time_has_the_device(page: Page, served: Served) -> None:
    page.get_by_role("link", name="Work Pools").click()
    page.get_by_role("link", name="local", exact=True).first.click()
    expect(page.get_by_role("complementary")).to_contain_text("Ready")
    page.get_by_role("tab", name="Workers").click()
    expect(page.get_by_role("row").filter(has_text="worker").filter(has_text="Online")).to_be_visible()
    page.get_by_role("tab", name="Work Queues").click()
    device = page.get_by_role("row").filter(has=page.get_by_role("link", name="device", exact=True))
    expect(device.get_by_role("cell").nth(1)).to_have_text("1")


def test_the_weekly_retraining_has_upcoming_runs_on_mondays_at_four(page: Page, served: Served, gallery: Gallery) -> None:
    ui.open_deployment(page, "weekly-retrain")
    page.get_by_role("tab", name="Upcoming").click()
    expect(page.get_by_text("At 04:00 AM, only on Monday")).to_be_visible()
    runs = page.get_by_role("tabpanel").get_by_role("listitem").filter(has_text="auto-scheduled")
    expect(runs.nth(2)).to_be_visible()
    moments = [re.findall(r"(\d{4}/\d\d/\d\d) (\d\d:\d\d:\d\d [AP]M)", text)[0] for text in runs.all_inner_texts()]
    assert {hour for _, hour in moments} == {"04:00:00 AM"}
    assert {datetime.strptime(day, "%Y/%m/%d").weekday() for day, _ in moments} == {MONDAY}
    gallery.take(page, "schedule")


def test_the_guards_against_runs_that_never_end_are_switched_on(page: Page, served: Served) -> None:
    page.get_by_role("link", name="Automations").click()
    for name in ("srpo: a run does not begin", "srpo: a run gives no sign of life"):
        item = page.get_by_role("listitem", name=f"automation item {name}")
        expect(item.get_by_role("switch", name="toggle automation")).to_be_checked()


def test_the_finished_run_shows_its_win_rates_as_a_table_and_as_curves(
    page: Page, served: Served, run_page: str, gallery: Gallery
) -> None:
    page.goto(run_page)
    expect(page.get_by_role("main").get_by_text("Completed", exact=True).first).to_be_visible(timeout=RUN_SECONDS * 1000)
    page.reload()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link").filter(has_text="MARKDOWN").filter(has_text="win-rates").first.click()
    page.get_by_role("main").get_by_role("link", name=re.compile(r"^[0-9a-f]{8}$")).first.click()
    table = page.get_by_role("table").first
    expect(table.get_by_role("columnheader", name="rev. 3")).to_be_visible()
    expect(table.get_by_role("row").filter(has_text="srpo").first).to_contain_text(re.compile(r"\d\.\d\s*[\[(]\d"))
    page.wait_for_function(DRAWN, arg=3)  # one an evaluation set: id, long, mix
    gallery.take(page, "win-rates", first=table, height=1340)  # all rows and the first curve


def test_cancel_ends_a_run_and_its_training_within_seconds(page: Page, served: Served, run_page: str, gallery: Gallery) -> None:
    """Of another world, so that nothing of it is there already, with enough demonstrations to train on for a while."""
    page.goto(run_page)
    expect(page.get_by_role("main").get_by_text("Completed", exact=True).first).to_be_visible(timeout=RUN_SECONDS * 1000)
    ui.open_form(page, "demo")
    ui.number(page, "Newsroom", "Number of demonstrations").fill("40000")
    ui.number(page, "Newsroom", "Seed").fill("1")
    ui.submit(page)
    expect(ui.newest_logs(page).get_by_text(STEP).first).to_be_visible(timeout=START_SECONDS * 1000)
    page.reload()  # a graph that was opened before the run began is drawn too small to read
    expect(ui.newest_logs(page).get_by_text(STEP).nth(2)).to_be_visible()
    gallery.take(page, "run")
    assert training_processes(served)
    ui.cancel_run(page)
    pressed = time.monotonic()
    expect(page.get_by_role("main").get_by_text("Cancelled", exact=True).first).to_be_visible()
    assert time.monotonic() - pressed < CANCEL_SECONDS
    assert training_processes(served) == []


def groups(settings: Settings) -> Iterator[Settings]:
    """The settings and all groups in them that have a value."""
    yield settings
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from groups(value)


def number_of_runs(served: Served) -> int:
    """How many runs of the demo there are, by the API."""
    asked = {"deployments": {"name": {"any_": ["demo"]}}}
    reply = httpx.post(f"{served.api}/flow_runs/count", json=asked, trust_env=False)
    reply.raise_for_status()
    return int(reply.json())


def refusal_of_the_command_line(assignment: str) -> str:
    """What `srpo run` says about a setting it refuses."""
    command = [sys.executable, "-m", "flows.cli", "run", "--preset", "demo", "--set", assignment]
    run = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert run.returncode == 2
    return run.stderr


def training_processes(served: Served) -> list[int]:
    """Processes that work on a job of this home."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        arguments = process.info["cmdline"] or []
        if "srpo_core.workers" in arguments and any(str(served.home) in one for one in arguments):
            found.append(process.pid)
    return found
