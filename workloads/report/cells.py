"""Tables of the report: numbers of a column share their decimals, and what is missing says why. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from xml.etree.ElementTree import Element

from mobifarm.workloads.report.markup import Child, element, prose
from mobifarm.workloads.summary import Estimate

NONE: Final = "–"
THIN: Final = "\N{NARROW NO-BREAK SPACE}"
Kind = Literal["text", "long", "number", "estimate"]
_CLASSES: Final = {"text": None, "long": "long", "number": "r"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading, what stands in it, and the heading that it shares with its neighbours."""

    heading: str
    kind: Kind = "text"
    over: str = ""

    @property
    def width(self) -> int:
        return 2 if self.kind == "estimate" else 1


Cell = str | Element | Estimate | None


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    caption: str = "",
    *,
    reference: int | None = None,
    wide: bool = True,
) -> Element:
    """A table that scrolls by itself where it is too wide.

    Args:
        reference: number of a row that the others are compared with.
    """
    head = element("thead", _over(columns), element("tr", *(_heading(column) for column in columns)))
    body = element("tbody")
    for number, row in enumerate(rows):
        cells = [cell for column, value in zip(columns, row, strict=True) for cell in _cells(column, value)]
        body.append(element("tr", *cells, class_="reference" if number == reference else None))
    made = element(
        "table",
        element("caption", *prose(caption)) if caption else None,
        head,
        body,
        class_="wide" if wide else None,
    )
    # Reached by the keyboard too, where it scrolls.
    return element("div", made, class_="scroll", tabindex="0")


def _over(columns: Sequence[Column]) -> Element | None:
    if not any(column.over for column in columns):
        return None
    row = element("tr")
    spans: list[tuple[str, int]] = []
    for column in columns:
        if spans and spans[-1][0] == column.over:
            spans[-1] = (column.over, spans[-1][1] + column.width)
        else:
            spans.append((column.over, column.width))
    row.extend(
        element("th", name, colspan=str(width), class_="over" if name else None) for name, width in spans
    )
    return row


def _heading(column: Column) -> Element:
    if column.kind == "estimate":
        return element("th", column.heading, colspan="2", scope="col")
    return element("th", column.heading, scope="col", class_="r" if column.kind == "number" else None)


def _cells(column: Column, value: Cell) -> list[Element]:
    if column.kind == "estimate":
        if isinstance(value, Estimate):
            bounds = f"[{100 * value.low:.1f}, {100 * value.high:.1f}]"
            return [
                element("td", f"{100 * value.mean:.1f}", class_="mean"),
                element("td", bounds, class_="ci"),
            ]
        return [element("td", NONE, class_="mean none"), element("td", class_="ci")]
    assert not isinstance(value, Estimate)
    if value is None or value == NONE:
        return [element("td", NONE, class_="none r" if column.kind == "number" else "none")]
    words = prose(value) if isinstance(value, str) else [value]
    return [element("td", *words, class_=_CLASSES[column.kind])]


def listing(pairs: Sequence[tuple[str, Child]]) -> Element:
    """Names with what they stand for."""
    made = element("dl")
    for name, value in pairs:
        made.append(element("dt", name))
        made.append(element("dd", value))
    return made


def grouped(value: float) -> str:
    """A whole number with thin spaces between the thousands."""
    return f"{value:,.0f}".replace(",", THIN)


def column_of(values: Sequence[float | None], decimals: int | None = None) -> list[str | None]:
    """Numbers with the same decimals, as many as show three digits of the smallest but at most three."""
    known = [abs(value) for value in values if value]
    if decimals is None:
        smallest = min(known, default=1.0)
        decimals = 0 if smallest >= 100 else 1 if smallest >= 10 else 2 if smallest >= 0.1 else 3
    return [None if value is None else f"{value:,.{decimals}f}".replace(",", THIN) for value in values]


def whole(value: float | None) -> str | None:
    """As above, None where there is none."""
    return None if value is None else grouped(value)


def counted(count: int, what: str) -> str:
    """A number of things, in the plural where it should be."""
    return f"{count} {what}" + ("" if count == 1 else "s")
