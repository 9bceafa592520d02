"""Charts are one well-formed `<svg>` that takes colours and fonts from the page and refers to nothing outside itself."""

import re
from xml.etree import ElementTree

import pytest

from srpo_core.charts import Line, line_chart

LINES = [
    Line("srpo", "srpo", [0, 1, 2], [0.3, 0.4, 0.5], [0.2, 0.3, 0.4], [0.4, 0.5, 0.6]),
    Line("dpo", "dpo", [0, 1, 2], [0.3, 0.3, 0.495]),
    Line("ceiling", "", [0, 1, 2], [0.5, 0.6, 0.7], weight="dotted"),
]


def chart(lines=LINES, title="id", **settings):
    return line_chart(lines, title=title, x_label="revision", percent=True, whole_x=True, **settings)


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))


def test_it_is_one_svg_element_without_anything_from_outside():
    svg = chart()
    assert parse(svg).tag == "svg"
    assert "http" not in svg and "<style" not in svg and "DejaVu" not in svg
    assert all(reference.startswith("#") for reference in re.findall(r'href="([^"]*)"', svg) + re.findall(r"url\(([^)]*)\)", svg))


def test_colours_are_the_pages():
    svg = chart()
    assert "var(--srpo, #0072b2)" in svg and "var(--dpo, #d55e00)" in svg and "currentColor" in svg and "var(--grid" in svg
    assert "#123456" not in svg and "#fedcba" not in svg


def test_labels_of_lines_that_end_together_do_not_cover_each_other():
    heights = {t.text: float(t.attrib["y"]) for t in parse(chart()).iter("text") if t.text in {"srpo", "dpo", "ceiling"}}
    ordered = sorted(heights.values())
    assert len(heights) == 3
    assert all(b - a > 9 for a, b in zip(ordered, ordered[1:], strict=False))  # the text is 9.5 units high


def test_titles_are_escaped():
    svg = chart(title='<script>&"')
    assert "<script>" not in svg
    assert parse(svg).attrib["aria-label"] == '<script>&"'


def test_the_same_lines_give_the_same_bytes():
    assert chart() == chart()


@pytest.mark.parametrize(
    "lines", [[], [Line("one", "srpo", [0], [0.5], [0.4], [0.6])], [Line("flat", "ipo", [0, 1], [0.0, 0.0])]]
)
def test_no_line_one_point_and_a_flat_line_are_drawn(lines):
    assert parse(chart(lines)).tag == "svg"


def test_dollar_signs_and_long_names_are_written_as_they_are_and_cut():
    svg = chart([Line("a $x_ name that is far too long to stand beside a line", "srpo", [0, 1], [0.1, 0.2])], title="$5 and $6")
    assert "a $x_ name that is far …" in svg and "$5 and $6" in svg
