"""A table of plain text that stays legible at any width of the terminal.

Ids, states and numbers are never folded. Where they leave too little for the sentences, columns that say less
give way, and at last each sentence stands on lines of its own below its row.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mobifarm.workloads.plain_text import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

NOTHING: Final = ("", "–")
_SENTENCE_WIDTH: Final = 32  # what is narrower is a tower of single words
_HEADING_WIDTH: Final = 20  # of a first column whose words fold
_GAP: Final = 2  # between columns that have no lines between them
_INDENT: Final = 4


@dataclass(frozen=True, slots=True)
class FittedTable:
    """What comes from a phone in it is neither read as markup nor obeyed by the terminal.

    Attributes:
        sentences: columns that may be folded at words; none: all may be, and no column gives way.
        spare: columns that are left out, in this order, before a sentence leaves its row; sentences that no
            row has go before them.
        last: columns that are left out, in this order, where the others would not fit otherwise.
        in_parts: columns that do not fit stand in another table below, beside the first column once more.
        right: numbers of the columns that are aligned right.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    sentences: Sequence[str] = ()
    spare: Sequence[str] = ()
    last: Sequence[str] = ()
    in_parts: bool = False
    right: Container[int] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        every = list(range(len(self.columns)))
        if self.in_parts:
            yield from map(self._table, self._parts(every, options.max_width))
            return
        if not self.sentences:
            yield self._table(every)
            return
        unsaid = [name for name in self.sentences if not self._said(self.columns.index(name))]
        for chosen in self._narrower(every, (*unsaid, *self.spare)):
            if _lined(self._least_width(i) for i in chosen) <= options.max_width:
                yield self._table(chosen)
                return
        keys = [i for i in every if self.columns[i] not in self.sentences]
        for chosen in self._narrower(keys, (*self.spare, *self.last)):
            if sum(self._width(i) + _GAP for i in chosen) - _GAP <= options.max_width:
                break
        yield from self._stacked(chosen)

    def _narrower(self, columns: list[int], leaving: Sequence[str]) -> Iterable[list[int]]:
        """All of the columns, then without the first that leaves, then without the second as well, …"""
        for number in range(len(leaving) + 1):
            yield [i for i in columns if self.columns[i] not in leaving[:number]]

    def _said(self, column: int) -> bool:
        return any(row[column] not in NOTHING for row in self.rows)

    def _parts(self, columns: list[int], width: int) -> Iterable[list[int]]:
        first, *others = columns
        heading = min(self._width(first), _HEADING_WIDTH)
        part: list[int] = []
        for i in others:
            if part and _lined((heading, *map(self._width, [*part, i]))) > width:
                yield [first, *part]
                part = []
            part.append(i)
        yield [first, *part]

    def _foldable(self, column: int) -> bool:
        if self.in_parts:
            return column == 0
        return not self.sentences or self.columns[column] in self.sentences

    def _width(self, column: int) -> int:
        from rich.cells import cell_len

        cells = (self.columns[column], *(row[column] for row in self.rows))
        return max(cell_len(line) for cell in cells for line in printable(cell).split("\n"))

    def _least_width(self, column: int) -> int:
        width = self._width(column)
        return min(width, _SENTENCE_WIDTH) if self._foldable(column) else width

    def _table(self, chosen: Sequence[int]) -> Table:
        from rich.table import Table
        from rich.text import Text

        title = Text(printable(self.title), style="bold")
        table = Table(title=title, title_justify="left", header_style="bold")
        for i in chosen:
            table.add_column(
                Text(self.columns[i]),
                justify="right" if i in self.right else "left",
                no_wrap=not self._foldable(i),
                overflow="fold",
            )
        for row in self.rows:
            table.add_row(*(Text(printable(row[i])) for i in chosen))
        return table

    def _stacked(self, chosen: Sequence[int]) -> Iterable[RenderableType]:
        from rich.padding import Padding
        from rich.text import Text

        yield Text(printable(self.title), style="bold")
        below = [i for i, name in enumerate(self.columns) if name in self.sentences and self._said(i)]
        names = "; ".join(self.columns[i] for i in below)
        yield Text(self._line(self.columns, chosen), style="bold", overflow="fold")
        if below:
            yield Padding(Text(names, style="bold"), (0, 0, 0, _INDENT), expand=False)
        for row in self.rows:
            yield Text(self._line(row, chosen), overflow="fold")
            for i in below:
                if row[i] not in NOTHING:
                    yield Padding(Text(printable(row[i]), overflow="fold"), (0, 0, 0, _INDENT), expand=False)

    def _line(self, cells: Sequence[str], chosen: Sequence[int]) -> str:
        from rich.cells import cell_len

        padded = []
        for i in chosen:
            cell = " ".join(printable(cells[i]).split())  # a row is one line here
            space = " " * (self._width(i) - cell_len(cell))
            padded.append(space + cell if i in self.right else cell + space)
        return (" " * _GAP).join(padded).rstrip()


def _lined(widths: Iterable[int]) -> int:
    """The width of a table with columns of these widths and lines between and around them."""
    return sum(width + 3 for width in widths) + 1
