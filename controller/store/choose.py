"""Which store a farm has: a SQLite file in its folder, or the PostgreSQL database that it began with."""

from __future__ import annotations

import os

from mobifarm.controller.errors import UserError
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.store.log import LogStore
from mobifarm.controller.store.postgresql import URL, PostgresReader, PostgresStore
from mobifarm.controller.store.read import Reader, StoreReader
from mobifarm.controller.store.sqlite import SqliteStore


def open_store(paths: FarmPaths, url: str | None = None) -> LogStore:
    """Open the farm's store for its controller.

    Args:
        url: of a PostgreSQL database; it is remembered in the farm's folder. None is the store as before.

    Raises:
        UserError, HostError: as the stores say; or the farm has another store already.
    """
    chosen = url or _remembered(paths)
    if chosen is None:
        return SqliteStore(paths.database)
    if not URL.match(chosen):
        raise UserError(f"{chosen!r} is no store: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    if paths.database.exists():
        raise UserError(
            f"the farm in {paths.home} has its log in {paths.database.name}: move it with `mobifarm store "
            "move URL`, or give the one in PostgreSQL a folder of its own (--home)"
        )
    store = PostgresStore(chosen)
    remember(paths, chosen)
    return store


def has_store(paths: FarmPaths) -> bool:
    """Whether the farm has ever kept anything."""
    return paths.database.exists() or paths.store_url.exists()


def open_reader(paths: FarmPaths) -> Reader:
    """Open the farm's store to read it, whether or not a controller runs.

    Raises:
        UserError: there is no store yet, or a newer MobiFarm wrote it.
        HostError: it cannot be read.
    """
    url = _remembered(paths)
    return StoreReader(paths.database) if url is None else PostgresReader(url)


def remember(paths: FarmPaths, url: str) -> None:
    """From now on the farm has its store there."""
    temporary = paths.store_url.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(url)
    temporary.replace(paths.store_url)


def _remembered(paths: FarmPaths) -> str | None:
    try:
        return paths.store_url.read_text().strip()
    except FileNotFoundError:
        return None
