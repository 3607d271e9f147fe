"""What the log's writer and the readers need of a database. SQL has ``?`` for parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Queries(Protocol):
    """A connection that is asked; outside a transaction every query sees the latest commit."""

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        """All rows of the answer."""
        ...

    def columns(self, table: str) -> frozenset[str]:
        """Names of the columns that a table has: one that an earlier version made may lack the newest."""
        ...


class Database(Queries, Protocol):
    """A connection that writes."""

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None: ...

    def begin(self) -> None: ...

    def commit(self) -> None:
        """Returns when everything since :meth:`begin` is on the disk."""
        ...

    def roll_back(self) -> None:
        """Undo everything since :meth:`begin`; harmless where nothing was begun."""
        ...
