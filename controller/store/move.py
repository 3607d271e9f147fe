"""Moves a farm that does not run from its file to PostgreSQL, with all that it knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from mobifarm.controller.errors import HostError, UserError
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.store.choose import remember
from mobifarm.controller.store.postgresql import URL, PostgresReader, PostgresStore
from mobifarm.controller.store.read import StoreReader
from mobifarm.controller.store.schema import TABLE_KEYS, columns_of, open_for_reading
from mobifarm.controller.store.sqlite import SqliteStore

PAGE: Final = 1000  # rows in memory at a time; a payload or a result may have some kilobytes


def move_to_postgresql(paths: FarmPaths, url: str) -> tuple[int, Path]:
    """Copy the store of a stopped farm, compare, and let the farm have the copy from now on.

    Returns:
        How many events there are, and where the old file is kept.

    Raises:
        UserError: the farm runs or has no file, the URL is none, or the database is not empty.
        HostError: the file or the database fails, or the copy is not equal; the farm keeps its file.
    """
    if not URL.match(url):
        raise UserError(f"{url!r} is no store: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    if not paths.database.exists():
        raise UserError(f"the farm in {paths.home} has no {paths.database.name} that could be moved")
    kept = paths.database.with_name(f"{paths.database.name}.moved")
    if kept.exists():
        raise UserError(f"{kept} is there already, of an earlier move: put it elsewhere first")
    with SqliteStore(paths.database) as source:  # nobody else writes meanwhile
        with PostgresStore(url) as target:
            target.fill(_pages(paths.database), source.epoch)
        with StoreReader(paths.database) as file, PostgresReader(url) as copy:
            for table in TABLE_KEYS:
                if copy.digest(table) != file.digest(table):
                    raise HostError(
                        f"the {table} in the database are not those in the file: the farm keeps its file; "
                        "empty the database before you try again"
                    )
            events, _ = file.digest("events")
    remember(paths, url)
    for suffix in ("", "-wal", "-shm"):  # the last two are there while somebody reads the file
        beside = paths.database.with_name(paths.database.name + suffix)
        if beside.exists():
            beside.rename(kept.with_name(kept.name + suffix))
    return events, kept


def _pages(path: Path) -> Iterator[tuple[str, Sequence[Sequence[Any]]]]:
    with closing(open_for_reading(path)) as connection:
        for table in TABLE_KEYS:
            names = sorted(columns_of(connection, table))
            columns = ", ".join(f'"{name}"' for name in names)
            marks = ", ".join("?" for _ in names)
            rows = connection.execute(f"SELECT {columns} FROM {table}")  # noqa: S608 (constants only)
            while page := rows.fetchmany(PAGE):
                yield f"INSERT INTO {table} ({columns}) VALUES ({marks})", page  # noqa: S608 (constants only)
