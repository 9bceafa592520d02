"""Line charts as inline SVG that take their colours from the page: they follow dark mode and need no other file.

Colours are the Okabe-Ito palette, told apart with colour-blind eyes; lines carry their names, so no legend is needed.
matplotlib is imported inside the function: it takes half a second, and only the report draws.
"""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

# Drawn in these colours; in the page each becomes a CSS variable with the drawn colour as its fallback.
COLOURS = {
    "srpo": "#0072b2",
    "dpo": "#d55e00",
    "ipo": "#009e73",
    "dpo_both": "#e69f00",
    "ipo_both": "#cc79a7",
    "sft": "#777777",
    "hub": "#56b4e9",
}
INK, GRID = "#123456", "#fedcba"  # stand-ins, replaced by currentColor and the page's --grid
LEAST_SPAN = 0.2  # of a chart in per cent
LONGEST_LABEL = 24  # characters
DASHED = ("dpo_both", "ipo_both")


class Line(NamedTuple):
    """One line of a chart."""

    label: str  # written at its right end; empty = none
    method: str  # its colour; anything unknown is drawn in the text's colour
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None  # a band around the line
    high: Sequence[float] | None = None
    weight: str = "normal"  # normal (points marked), line (without), thin (one of many), or dotted (a ceiling)


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    percent: bool = False,
    whole_x: bool = False,
    width: float = 4.6,
    height: float = 3.1,
) -> str:
    """Draw `lines` and return one `<svg>` element; `percent` shows y as per cent, `whole_x` puts a tick at each integer."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.family": "sans-serif",
        "font.size": 9.5,
        "text.parse_math": False,  # a dollar sign in a name is a dollar sign
        "text.color": INK,
        "axes.edgecolor": GRID,
        "axes.labelcolor": INK,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
    }
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for line in lines:
            _draw(axes, line)
        axes.set_title(_cut(title, 2 * LONGEST_LABEL), loc="left", fontsize=10.5, fontweight="bold", color=INK)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        if whole_x:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if percent:
            axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))  # 2.5 % steps would read 43, 45, 48
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            _widen(axes)
        _write_labels(axes, lines)
        stream = io.StringIO()
        unstamped = dict.fromkeys(("Date", "Creator", "Type", "Format"))
        figure.savefig(stream, format="svg", transparent=True, metadata=unstamped)
    return _inline(stream.getvalue(), title)


def standalone(svg: str, width: int = 560) -> str:
    """An inline chart as a document of its own, on white: in an `<img>` it sees neither the page's fonts nor its colours.

    `width` in pixels.
    """
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    look = f'style="background: #ffffff; color: #222222; font-family: sans-serif" width="{width}"'
    return svg.replace("<svg ", f"<svg {names} {look} ", 1)


def _draw(axes: Any, line: Line) -> None:
    colour = COLOURS.get(line.method, INK)
    if line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
    dashes = {"dotted": (0, (1, 1.6))}.get(line.weight, (0, (4, 1.5)) if line.method in DASHED else "-")
    axes.plot(
        line.x,
        line.y,
        color=colour,
        linewidth={"thin": 0.8, "dotted": 1.4}.get(line.weight, 2.0),
        alpha=0.45 if line.weight == "thin" else 1.0,
        linestyle=dashes,
        marker="o" if line.weight == "normal" and len(line.x) <= 20 else None,
        markersize=4,
    )


def _write_labels(axes: Any, lines: Sequence[Line]) -> None:
    """Names at the right ends, moved apart vertically so that none covers another."""
    import numpy as np
    from scipy.optimize import isotonic_regression

    named = sorted((line for line in lines if line.label and len(line.x)), key=lambda line: line.y[-1])
    if not named:
        return
    bottom, top = axes.get_ylim()
    left, right = axes.get_xlim()
    gap = (top - bottom) * 0.075
    # The least moves that keep labels a gap apart: isotonic regression of the ends, each less the gaps below it.
    gaps = gap * np.arange(len(named))
    heights = isotonic_regression(np.array([line.y[-1] for line in named]) - gaps).x + gaps
    highest = top - gap / 2 - gaps[::-1]
    heights = np.minimum(heights, highest)
    place = max(max(line.x) for line in named) + (right - left) * 0.02
    for line, height in zip(named, heights, strict=True):
        colour = COLOURS.get(line.method, INK)
        axes.text(
            place, height, _cut(line.label, LONGEST_LABEL), color=colour, va="center", ha="left", fontsize=9.5, fontweight="bold"
        )
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _widen(axes: Any) -> None:
    """At least LEAST_SPAN of y, so that noise does not fill the chart and look like an effect; hardly past 0 and 1."""
    bottom, top = axes.get_ylim()
    missing = max(0.0, LEAST_SPAN - (top - bottom))
    axes.set_ylim(max(bottom - missing / 2, -0.02), min(top + missing / 2, 1.02))


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _inline(document: str, title: str) -> str:
    """The `<svg>` element alone, sized by the page, with CSS variables for colours and a name for screen readers."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    opening = r'<svg viewBox="\1" role="img" class="chart">'
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', opening, svg, count=1, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--grid, #dddddd)")
    for method, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{method}, {colour})")
    # Fonts are the page's, ids would repeat from chart to chart, and a bare `*` rule would reach the whole page.
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace('class="chart">', f'class="chart" aria-label="{escaped}">', 1)
