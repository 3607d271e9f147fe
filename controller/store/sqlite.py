"""The store in one SQLite file, for one controller on one machine. The file must be on a local disk.

Only one controller writes: a lock on ``FILE.lock``, which the kernel releases when its holder dies, refuses
a second one.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mobifarm.controller.errors import HostError, UserError
from mobifarm.controller.store.log import LogStore
from mobifarm.controller.store.read import StoreReader
from mobifarm.controller.store.schema import columns_of, open_for_writing


class SqliteStore(LogStore):
    """See :class:`~mobifarm.controller.store.log.LogStore`."""

    def __init__(self, path: Path) -> None:
        """Open or create the store and begin a new epoch.

        Raises:
            UserError: another controller has it open, or it is not a store that this MobiFarm understands.
            HostError: the file cannot be read or written.
        """
        with ExitStack() as resources:
            resources.callback(os.close, _lock(path))
            self._connection = open_for_writing(path)
            resources.callback(self._connection.close)
            reader = resources.enter_context(StoreReader(path))
            try:
                super().__init__(_SqliteDatabase(self._connection), reader, resources)
            except sqlite3.Error as error:
                raise HostError(
                    f"The farm's store {path} cannot be written ({error}): check the disk."
                ) from error
            self._resources = resources.pop_all()


class _SqliteDatabase:
    """See :class:`~mobifarm.controller.store.database.Database`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        return self._connection.execute(statement, parameters).fetchall()

    def columns(self, table: str) -> frozenset[str]:
        return columns_of(self._connection, table)

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(statement, rows)

    def begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _lock(path: Path) -> int:
    """Descriptor that holds the lock on the store until it is closed or its process dies."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(
            f"The farm's store {path} cannot be opened ({error}): check the directory."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise UserError(
            f"Another controller{f' (process {holder})' if holder else ''} uses the farm's store {path}: "
            "stop that one first, or give this one a state directory of its own (MOBIFARM_HOME)."
        ) from error
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
