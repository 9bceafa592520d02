"""The report is one self-contained page: well-formed, escaped, with the database's numbers, in every state of a home."""

import re
from html.parser import HTMLParser

import pytest

from storage.errors import UnusableInput
from storage.results_db import run_query
from tasks.publishing import publish_results
from tasks.reporting import read_rates, write_report
from tests.homes import (
    decode_again,
    graded,
    make_home,
    put_audits,
    put_completions,
    put_diagnostics,
    put_equal_compute,
    put_games,
    put_policy,
    put_preferences,
    put_prompts,
)

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Every element and its attributes; fails on elements that close in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = make_home(tmp_path_factory.mktemp("home"), size=15, revisions=3)
    put_diagnostics(folder)
    publish_results(folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(home):
    return (home / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_asks_for_nothing(page):
    parsed = Page(page)
    assert "script" not in parsed.tags and "link" not in parsed.tags and "img" not in parsed.tags
    references = [value for name, value in parsed.attributes if name in ("href", "src", "xlink:href", "action", "srcset")]
    assert all(value.startswith("#") for value in references)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_it_works_in_dark_mode_and_on_a_phone(page):
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_texts_and_prompts_are_escaped(page):
    assert "&lt;b&gt;" in page and "&amp; more" in page
    assert "id <b>" not in page


def test_hostile_texts_stay_text(tmp_path, monkeypatch):
    import tests.homes as homes

    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }} $x_"
    monkeypatch.setattr(homes, "WORDS", [hostile] * 16)
    prompts = put_prompts(tmp_path, hostile, "desk", 2)
    policy = put_policy(tmp_path, hostile, "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 1), prompts, lambda *_: 1.0, judge=hostile)
    publish_results(tmp_path)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    parsed = Page(text)
    assert "script" not in parsed.tags and "img" not in parsed.tags
    assert "{{ 7*7 }}" in text


def test_every_published_win_rate_is_on_the_page(home, page):
    rates = run_query(home, "SELECT DISTINCT win_rate FROM win_rates").column("win_rate").to_pylist()
    assert all(f"<b>{100 * rate:.1f} %</b>" in page for rate in rates)


def test_charts_ceilings_one_edit_texts_and_lineage_are_there(home, page):
    assert page.count("<svg") == 2 + 3 + 1  # two sets; a loss chart a method; the gradient norm
    assert page.count("ceiling β 0.1") >= 2
    assert "drop a wrong fact" in page and "+3.30" in page and "share reached" in page
    assert page.count('class="card chain"') == 12
    for (fingerprint,) in [tuple(r.values()) for r in run_query(home, "SELECT fingerprint FROM artifacts").to_pylist()]:
        assert fingerprint in page
    assert "no label in the reply" in page and "run-1" in page


def test_columns_with_one_value_are_left_out_and_several_values_get_theirs(tmp_path, page):
    assert "<th>T</th>" not in page
    prompts = put_prompts(tmp_path, "id", "desk", 5)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    for temperature in (0.5, 1.0):
        put_games(tmp_path, put_completions(tmp_path, policy, prompts, 1, temperature), prompts, graded)
    publish_results(tmp_path)
    text = write_report(tmp_path).read_text()
    assert "<th>T</th>" in text and "T = 0.5" in text and "T = 1" in text


def test_many_policies_are_drawn_thin_under_one_line_a_method(tmp_path):
    preferences, prompts = put_preferences(tmp_path), put_prompts(tmp_path, "id", "desk", 5)
    for seed in range(9):
        policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": preferences}, beta=0.1, seed=seed)
        put_games(tmp_path, put_completions(tmp_path, policy, prompts, 1), prompts, graded)
    publish_results(tmp_path)
    text = write_report(tmp_path).read_text()
    assert "Over training seeds" in text and "srpo β 0.1 seed 8" in text
    assert text[text.index("<svg") : text.index("</svg>")].count(">srpo<") == 1


def test_a_home_without_verdicts_still_gives_a_page_that_says_so(tmp_path):
    put_preferences(tmp_path)
    publish_results(tmp_path)
    text = write_report(tmp_path).read_text()
    Page(text)
    assert "No verdicts were published yet" in text


def test_all_unscored_gives_a_page_with_dashes_and_no_zero(tmp_path):
    prompts = put_prompts(tmp_path, "id", "desk", 4)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 1), prompts, lambda *_: None)
    publish_results(tmp_path)
    text = write_report(tmp_path).read_text()
    Page(text)
    assert "<td><b>–</b></td>" in text and "0.0–100.0 %" in text and "unscored" in text


def test_without_a_published_database_the_next_step_is_named(tmp_path):
    with pytest.raises(UnusableInput, match="run srpo publish"):
        write_report(tmp_path)


def test_a_hub_model_of_unknown_training_stands_in_the_same_chart(tmp_path):
    prompts = put_prompts(tmp_path, "id", "desk", 6)
    srpo = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    for policy in (srpo, put_policy(tmp_path, "hub-model", "hub", {})):
        put_games(tmp_path, put_completions(tmp_path, policy, prompts, 1), prompts, lambda *_: 1.0)
    publish_results(tmp_path)
    text = write_report(tmp_path).read_text()
    assert text.count("<figcaption>") == 1 and ">hub-model<" in text and "in distribution · against gold" in text


def test_audits_looks_and_equal_compute_are_shown_where_there_are_any(page, tmp_path):
    assert not {"At equal compute", "The judge, measured"} & set(Page(page).text)
    folder = make_home(tmp_path, size=4, revisions=1)
    put_audits(folder)
    put_equal_compute(folder)
    publish_results(folder)
    found = Page(write_report(folder).read_text(encoding="utf-8"))
    assert {"At equal compute", "The judge, measured", "agreement", "attack rate: all"} <= set(found.text)
    assert "The same frozen games, asked again: has the judge changed?" in found.text
    assert "judge rule · T = 1" in found.text


def test_each_way_of_decoding_ends_at_its_own_last_revision(tmp_path):
    """Three revisions with long texts, one with short ones: each has its gain, and its rows say which it is."""
    publish_results(decode_again(make_home(tmp_path, size=10, revisions=3)))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    gains = text[text.index("What the revisions add") : text.index("Every win rate")]
    rows = [
        row for row in gains.split("<tr")[1:] if "</span>srpo<" in row and ">rule<" in row and ">gold<" in row and ">id<" in row
    ]
    cells = [re.findall(r"<td[^>]*>(?:<b>)?([^<]*)", row) for row in rows]
    assert {(row[4], row[-1]) for row in cells} == {("3", "max_new_tokens=64 top_p=1.0"), ("1", "max_new_tokens=8 top_p=1.0")}


def test_the_report_holds_no_other_judges_rate_against_the_ceiling(tmp_path):
    folder = make_home(tmp_path, size=10, revisions=3)
    put_diagnostics(folder)
    publish_results(decode_again(folder))
    held = {(row["judge"], row["opponent"]) for row in read_rates(folder) if row["ceiling"] is not None}
    assert held == {("rule", "gold")}
    assert {row["judge"] for row in read_rates(folder)} == {"rule", "model"}
