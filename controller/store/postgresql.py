"""The store in a PostgreSQL database, for a farm whose truth should live on a server of its own.

Tables, statements and guarantees are those of the SQLite file. Only one controller writes: a lock of its
session, which the server releases when the connection ends, refuses a second one; and every commit checks the
epoch. A controller that loses its connection ends and is started again, as with a disk that fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from mobifarm.controller.errors import HostError, UserError
from mobifarm.controller.store.log import LogStore
from mobifarm.controller.store.read import Reader
from mobifarm.controller.store.schema import APPLICATION_ID, LATER_COLUMNS, SCHEMA_VERSION, TABLES

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_DEADLINE_S: Final = 10
URL: Final = re.compile(r"postgres(ql)?://")

# SQLite's names for what PostgreSQL calls otherwise.
_TYPES: Final = {"INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION"}
_LOCK: Final = f"pg_try_advisory_lock({APPLICATION_ID}, hashtext(current_schema()))"


class PostgresReader(Reader):
    """Reads a database that a controller has made its store."""

    def __init__(self, url: str) -> None:
        """Connect.

        Raises:
            UserError: psycopg is not installed, or there is no store that this MobiFarm understands.
            HostError: the server does not answer.
        """
        connection = _connect(url)
        database = _PostgresDatabase(connection, url)
        try:
            database.execute("SET default_transaction_read_only = on")
            if not _verify(database):
                raise UserError(
                    f"There is no farm in the database {_shown(url)} yet: start the farm with `mobifarm up`."
                )
        except BaseException:
            connection.close()
            raise
        super().__init__(database, connection.close)


class PostgresStore(LogStore):
    """See :class:`~mobifarm.controller.store.log.LogStore`."""

    def __init__(self, url: str) -> None:
        """Connect, make the tables where there are none, and begin a new epoch.

        Raises:
            UserError: psycopg is not installed, another controller writes there, or the database holds no
                store that this MobiFarm understands.
            HostError: the server does not answer, or does not let this user write.
        """
        with ExitStack() as resources:
            connection = _connect(url)
            resources.callback(connection.close)
            database = _PostgresDatabase(connection, url)
            ((locked,),) = database.execute(f"SELECT {_LOCK}")
            if not locked:
                raise UserError(
                    f"Another controller uses the farm's store {_shown(url)}: stop that one first, or give "
                    "this one a database of its own."
                )
            if not _verify(database):
                _create(database)
            for table, column, kind in LATER_COLUMNS:
                database.execute(
                    f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {_TYPES.get(kind, kind)}"
                )
            database.execute("SET synchronous_commit = on")
            reader = resources.enter_context(PostgresReader(url))
            super().__init__(database, reader, resources)
            self._resources = resources.pop_all()


class _PostgresDatabase:
    """See :class:`~mobifarm.controller.store.database.Database`."""

    def __init__(self, connection: Connection, url: str) -> None:
        self._connection = connection
        self._url = url

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        with self._errors():
            cursor = self._connection.execute(_in_psycopg(statement), _storable(parameters))
            return cursor.fetchall() if cursor.description else []

    def columns(self, table: str) -> frozenset[str]:
        rows = self.execute(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name = ?",
            (table,),
        )
        return frozenset(name for (name,) in rows)

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._errors(), self._connection.cursor() as cursor:
            cursor.executemany(_in_psycopg(statement), [_storable(row) for row in rows])

    def begin(self) -> None:
        self.execute("BEGIN")

    def commit(self) -> None:
        self.execute("COMMIT")

    def roll_back(self) -> None:
        from psycopg.pq import TransactionStatus

        if self._connection.info.transaction_status not in (
            TransactionStatus.IDLE,
            TransactionStatus.UNKNOWN,
        ):
            self.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise HostError(
                f"The farm's store {_shown(self._url)} does not do what it is asked "
                f"({_first_line(error)}): look at the server, then restart the controller."
            ) from error


def _connect(url: str) -> Connection:
    try:
        import psycopg
    except ImportError as error:
        raise UserError(
            f"A store in PostgreSQL needs psycopg ({error}): pip install 'mobifarm[postgres]'"
        ) from None
    try:
        return psycopg.connect(
            url, autocommit=True, connect_timeout=CONNECT_DEADLINE_S, application_name="mobifarm"
        )
    except psycopg.ProgrammingError as error:
        raise UserError(
            f"the store's URL cannot be read ({_first_line(error)}): write "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from None
    except psycopg.Error as error:
        raise HostError(
            f"The farm's store {_shown(url)} cannot be opened ({_first_line(error)}): look at the server and "
            "the URL."
        ) from error


def _verify(database: _PostgresDatabase) -> bool:
    """Whether there is a store; raises UserError where it is not ours or too new."""
    ((table,),) = database.execute("SELECT to_regclass('mobifarm_store')::text")
    if table is None:
        return False
    ((version,),) = database.execute("SELECT schema_version FROM mobifarm_store")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"The farm's store has schema {version}, this MobiFarm knows up to {SCHEMA_VERSION}: "
            "upgrade MobiFarm."
        )
    return True


def _create(database: _PostgresDatabase) -> None:
    tables = re.sub(r"\b(INTEGER|REAL)\b", lambda match: _TYPES[match[0]], TABLES)
    version = f"CREATE TABLE mobifarm_store AS SELECT {SCHEMA_VERSION} AS schema_version;"
    database.execute(f"BEGIN; {tables} {version} COMMIT;")


@cache
def _in_psycopg(statement: str) -> str:
    return statement.replace("?", "%s")


def _storable(parameters: Sequence[Any]) -> tuple[Any, ...]:
    """PostgreSQL's text holds no NUL, which a phone may well send; in the log it is escaped as JSON does."""
    return tuple(
        value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value
        for value in parameters
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _shown(url: str) -> str:
    """The URL without its password."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", url)
