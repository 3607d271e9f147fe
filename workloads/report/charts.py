"""The report's plots, drawn as SVG: colours come from the page's style, text stays text. Pure.

Drawn here rather than by a plotting library: four plain kinds of plot that follow the reader's dark or light
colours, with selectable text and the same bytes for the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Final, TypeVar
from xml.etree.ElementTree import Element

from mobifarm.workloads.report.markup import element
from mobifarm.workloads.report.scales import Scale, linear, logarithmic
from mobifarm.workloads.statistics import quantile
from mobifarm.workloads.summary import Estimate

WIDTH: Final = 720.0
T = TypeVar("T")
COLOURS: Final = 8  # classes c0 … c7 of the style
_LABEL_LETTERS: Final = 36
_AXIS: Final = 44.0  # below a plot: ticks and the axis' title
_ROW: Final = 20.0
DOTS: Final = 400  # of one row; more than these hide each other
_LEAST_SPAN: Final = 1.0  # of the y axis of lines: a wobble in the last digit is no mountain
_GOLDEN: Final = 0.618033988749895


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a plot: its label, its colour's number, and what it shows. ``hollow`` marks a reference."""

    label: str
    colour: int
    estimate: Estimate | None = None
    values: Sequence[float] = field(default_factory=tuple)
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points (x, y), in order of x."""

    label: str
    colour: int
    points: Sequence[tuple[float, float]]


def intervals(groups: Mapping[str, Sequence[Row]], axis: str, title: str) -> Element:
    """Shares from 0 to 1 as dots with their intervals in per cent; a group of rows per measure."""
    left = _label_width([*groups, *(row.label for rows in groups.values() for row in rows)])
    right = WIDTH - 64
    scale = Scale(0, 100, left, right, (0, 20, 40, 60, 80, 100))
    marks: list[Element] = []
    y = 4.0
    for name, rows in groups.items():
        y += _ROW
        marks.append(_text(name, 0, y - 5, "group"))
        for row in rows:
            y += _ROW
            marks += _interval_row(row, scale, y - _ROW / 2, left)
        y += 4
    return _chart([*_x_axis(scale, 4, y, axis), *marks], y + _AXIS, title)


def _interval_row(row: Row, scale: Scale, y: float, left: float) -> list[Element]:
    marks = [_text(row.label, left - 10, y + 4, "label", "end")]
    if row.estimate is None:
        return [*marks, _text("not measured", left + 6, y + 4, "faint")]
    low, mean, high = (scale(100 * part) for part in (row.estimate.low, row.estimate.mean, row.estimate.high))
    colour = f"c{row.colour % COLOURS}"
    shape = f"{colour} hollow" if row.hollow else colour
    return [
        *marks,
        element("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker {colour}"),
        element("circle", cx=mean, cy=y, r=4.5, class_=f"dot {shape}"),
        _text(f"{100 * row.estimate.mean:.1f}", WIDTH - 4, y + 4, "value", "end"),
    ]


def distributions(rows: Sequence[Row], axis: str, title: str) -> Element:
    """Every value as a dot, with the quartiles as a box and the median as a bar; a row per line."""
    left = _label_width([row.label for row in rows])
    scale = linear(list(chain.from_iterable(row.values for row in rows)), left, WIDTH - 64, zero=True)
    height = 30.0
    marks: list[Element] = []
    for place, row in enumerate(rows):
        y = 6 + height * (place + 0.5)
        colour = f"c{row.colour % COLOURS}"
        marks.append(_text(row.label, left - 10, y + 4, "label", "end"))
        quartiles = [quantile(row.values, share) for share in (0.25, 0.5, 0.75)]
        first, middle, third = (0.0 if each is None else scale(each) for each in quartiles)
        marks.append(
            element(
                "rect", x=first, y=y - 9, width=max(third - first, 1.0), height=18, class_=f"box {colour}"
            )
        )
        # Spread by the golden ratio: neighbours in time lie apart, and always at the same place.
        for index, value in enumerate(_thinned(row.values)):
            at = y + 14 * ((index * _GOLDEN) % 1 - 0.5)
            marks.append(element("circle", cx=scale(value), cy=at, r=2, class_=f"point {colour}"))
        marks.append(element("line", x1=middle, x2=middle, y1=y - 11, y2=y + 11, class_=f"median {colour}"))
        marks.append(_text(_three_digits(quartiles[1] or 0.0), WIDTH - 4, y + 4, "value", "end"))
    bottom = 6 + height * len(rows)
    return _chart([*_x_axis(scale, 6, bottom, axis), *marks], bottom + _AXIS, title)


def lines(found: Sequence[Line], x_axis: str, y_axis: str, title: str) -> Element:
    """Lines over one axis, each named at its end."""
    top, height = 22.0, 220.0
    right = WIDTH - _label_width([line.label for line in found])
    points = [point for line in found for point in line.points]
    x = linear([point[0] for point in points], 52, right, zero=True, about=6)
    heights = [point[1] for point in points]
    middle = (min(heights) + max(heights)) / 2
    y = linear([*heights, middle - _LEAST_SPAN / 2, middle + _LEAST_SPAN / 2], top + height, top)
    marks: list[Element] = []
    ends = _apart([y(line.points[-1][1]) for line in found], 15.0)
    for line, end in zip(found, ends, strict=True):
        colour = f"c{line.colour % COLOURS}"
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        marks.append(element("polyline", points=path, class_=f"line {colour}"))
        last = line.points[-1]
        marks.append(element("circle", cx=x(last[0]), cy=y(last[1]), r=2.5, class_=f"dot {colour}"))
        marks.append(_text(line.label, right + 8, end + 4, f"label ink {colour}"))
    frame = [*_x_axis(x, top, top + height, x_axis), *_y_axis(y, 52, right, y_axis)]
    return _chart([*frame, *marks], top + height + _AXIS, title)


def scatter(panels: Mapping[str, Sequence[tuple[Row, Sequence[tuple[float, float]]]]], title: str) -> Element:
    """Probabilities before (x) and after (y) on the same logarithmic axes, a panel per answer, side by side.

    On the diagonal nothing changed.
    """
    gap, left, top = 66.0, 54.0, 26.0
    size = (WIDTH - left - gap * (len(panels) - 1) - 8) / max(2, len(panels))
    both = [value for rows in panels.values() for _, points in rows for pair in points for value in pair]
    marks: list[Element] = []
    for place, (name, rows) in enumerate(panels.items()):
        start = left + place * (size + gap)
        x = logarithmic([*both, 1.0], start, start + size)
        y = logarithmic([*both, 1.0], top + size, top)
        marks.append(_text(name, start, top - 10, "group"))
        marks += _x_axis(x, top, top + size, "before the edit")
        marks += _y_axis(y, start, start + size, "after the edit" if place == 0 else "", titled_at=top)
        marks.append(element("line", x1=start, y1=top + size, x2=start + size, y2=top, class_="diagonal"))
        for row, points in rows:
            marks += [
                element("circle", cx=x(a), cy=y(b), r=3, class_=f"point big c{row.colour % COLOURS}")
                for a, b in _thinned(points)
            ]
    bottom = top + size + _AXIS
    legend = {row.label: row.colour for rows in panels.values() for row, _ in rows}
    marks += _legend(legend, left, bottom + 14)
    return _chart(marks, bottom + 22, title)


def _thinned(values: Sequence[T]) -> Sequence[T]:
    """All of them, or as many as can be seen, evenly chosen."""
    return values[:: math.ceil(len(values) / DOTS)] if values else values


def _legend(entries: Mapping[str, int], x: float, y: float) -> list[Element]:
    marks = []
    for label, colour in entries.items():
        marks.append(element("circle", cx=x + 4, cy=y - 4, r=4, class_=f"dot c{colour % COLOURS}"))
        marks.append(_text(label, x + 14, y, "label"))
        x += 34 + _words_width(label)
    return marks


def _x_axis(scale: Scale, top: float, bottom: float, title: str) -> list[Element]:
    marks = []
    for tick in scale.ticks:
        at = scale(tick)
        marks.append(element("line", x1=at, x2=at, y1=top, y2=bottom, class_="grid"))
        marks.append(_text(scale.label(tick), at, bottom + 16, "tick", "middle"))
    marks.append(element("line", x1=scale.start, x2=scale.end, y1=bottom, y2=bottom, class_="axis"))
    marks.append(_text(title, (scale.start + scale.end) / 2, bottom + 35, "title", "middle"))
    return marks


def _y_axis(
    scale: Scale, left: float, right: float, title: str, titled_at: float | None = None
) -> list[Element]:
    marks = []
    for tick in scale.ticks:
        at = scale(tick)
        marks.append(element("line", x1=left, x2=right, y1=at, y2=at, class_="grid"))
        marks.append(_text(scale.label(tick), left - 7, at + 4, "tick", "end"))
    if titled_at is None:
        marks.append(_text(title, 0, 10, "title"))
    elif title:
        middle = (scale.start + scale.end) / 2
        turned = _text(title, 0, 0, "title", "middle")
        turned.set("transform", f"translate({left - 42:.1f} {middle:.1f}) rotate(-90)")
        marks.append(turned)
    return marks


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """The places moved as little as need be so that labels there do not lie on each other."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for earlier, later in pairwise(order):
        moved[later] = max(moved[later], moved[earlier] + gap)
    return moved


def _chart(children: Sequence[Element], height: float, title: str) -> Element:
    return element(
        "svg",
        element("title", title),
        *children,
        viewBox=f"0 0 {WIDTH:g} {height:.0f}",
        role="img",
        aria_label=title,
        class_="chart",
    )


def _text(words: str, x: float, y: float, kind: str, anchor: str | None = None) -> Element:
    return element(
        "text",
        _shortened(words) if kind.startswith("label") else words,
        x=x,
        y=y,
        class_=kind,
        text_anchor=anchor,
    )


def _label_width(labels: Sequence[str]) -> float:
    return 16 + max((_words_width(_shortened(label)) for label in labels), default=0.0)


def _shortened(label: str) -> str:
    return label if len(label) <= _LABEL_LETTERS else label[: _LABEL_LETTERS - 1] + "…"


def _words_width(words: str) -> float:
    """At the labels' size in a wide font: nobody here knows which font the reader has."""
    return sum(4.2 if letter in " .,:;·ijl|'" else 8.0 if letter.isupper() else 7.2 for letter in words)


def _three_digits(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
