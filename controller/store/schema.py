"""The SQLite file: its tables, its version, and how a connection to it is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from mobifarm.controller.errors import HostError, UserError

APPLICATION_ID: Final = 0x4D4F4246  # "MOBF" in the file's header
SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 10.0

# Only events, specs, payloads and results are original; the other tables can be derived from them again.
# Columns of jobs, trials, attempts and devices are the fields of their views in controller.core.views.
TABLES: Final = """
CREATE TABLE controller (epoch INTEGER NOT NULL);
INSERT INTO controller VALUES (0);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL
);

CREATE TABLE specs (job_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE payloads (trial_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE results (
    trial_id TEXT PRIMARY KEY, attempt_id TEXT NOT NULL UNIQUE, at REAL NOT NULL, failed INTEGER NOT NULL,
    body TEXT NOT NULL
);

CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, name TEXT NOT NULL, "user" TEXT NOT NULL,
    state TEXT NOT NULL, priority INTEGER NOT NULL, attempt_limit INTEGER NOT NULL,
    submitted_at REAL NOT NULL, cancelled_at REAL, finished_at REAL,
    trials INTEGER NOT NULL, pending INTEGER NOT NULL, leased INTEGER NOT NULL, done INTEGER NOT NULL,
    failed INTEGER NOT NULL, abandoned INTEGER NOT NULL, cancelled INTEGER NOT NULL
);
CREATE TABLE trials (
    trial_id TEXT PRIMARY KEY, job_id TEXT NOT NULL, position INTEGER NOT NULL, label TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL, not_before REAL NOT NULL, result_attempt_id TEXT
);
CREATE INDEX trials_of_job ON trials (job_id, position);
CREATE TABLE attempts (
    attempt_id TEXT PRIMARY KEY, trial_id TEXT NOT NULL, job_id TEXT NOT NULL, label TEXT NOT NULL,
    device_id TEXT NOT NULL, serial TEXT NOT NULL, fingerprint TEXT NOT NULL, execution TEXT NOT NULL,
    measurement_epoch INTEGER NOT NULL, fencing_token INTEGER NOT NULL, state TEXT NOT NULL,
    granted_at REAL NOT NULL, started_at REAL, lost_at REAL, ended_at REAL, reason TEXT NOT NULL
);
CREATE INDEX attempts_of_job ON attempts (job_id);
CREATE TABLE devices (
    device_id TEXT PRIMARY KEY, address TEXT NOT NULL, source TEXT NOT NULL, host TEXT NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL, action TEXT NOT NULL, changed_at REAL NOT NULL,
    serial TEXT NOT NULL, fingerprint TEXT NOT NULL, model TEXT NOT NULL, execution TEXT NOT NULL,
    agent_version TEXT NOT NULL, measurement_epoch INTEGER NOT NULL, consecutive_failures INTEGER NOT NULL,
    leases_granted INTEGER NOT NULL, attempt_id TEXT, trial_id TEXT, ready_after_s REAL,
    tags TEXT
);
CREATE TABLE properties (device_id TEXT PRIMARY KEY, body TEXT NOT NULL);
"""

# Every table with its key, but that of the controller, which is one number: the epoch.
TABLE_KEYS: Final = {
    "events": "seq", "specs": "job_id", "payloads": "trial_id", "results": "trial_id", "jobs": "job_id",
    "trials": "trial_id", "attempts": "attempt_id", "devices": "device_id", "properties": "device_id",
}  # fmt: skip

# Columns of derived tables that files made before do not have; all may be NULL.
LATER_COLUMNS: Final = (("devices", "ready_after_s", "REAL"), ("devices", "tags", "TEXT"))


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open or create the file so that a commit is on the disk when it returns.

    The connection is in autocommit mode and may be handed to another thread.

    Raises:
        UserError: the file is not a MobiFarm store or belongs to a newer MobiFarm.
        HostError: the file cannot be read or written.
    """
    try:
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise HostError(
            f"The farm's store {path} cannot be opened ({error}): check the directory."
        ) from error
    try:
        if not _is_empty(connection):
            verify(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if _is_empty(connection):
            _create(connection)
        for table, column, kind in LATER_COLUMNS:
            if column not in columns_of(connection, table):
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    except sqlite3.Error as error:
        connection.close()
        raise _unreadable(path, error) from error
    except UserError:
        connection.close()
        raise
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open an existing file without the means to change it, whether or not a controller is writing.

    Raises:
        UserError: there is no such file, it is not a MobiFarm store, or it belongs to a newer MobiFarm.
        HostError: the file cannot be read.
    """
    if not path.exists():
        raise UserError(f"There is no farm state at {path} yet: start the farm with `mobifarm up`.")
    connection = None
    try:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro",
            BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )
        verify(connection, path)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise _unreadable(path, error) from error
    except UserError:
        if connection is not None:
            connection.close()
        raise
    return connection


def _unreadable(path: Path, error: sqlite3.Error) -> UserError | HostError:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
        return UserError(f"{path} is not a MobiFarm store: name another file or move this one away.")
    return HostError(
        f"The farm's store {path} cannot be read ({error}): check the disk and the file's owner."
    )


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None


def _create(connection: sqlite3.Connection) -> None:
    connection.executescript(
        f"BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID}; "
        f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    )


def columns_of(connection: sqlite3.Connection, table: str) -> frozenset[str]:
    """Names of the columns that a table of this file has."""
    return frozenset(name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})"))


def verify(connection: sqlite3.Connection, path: Path) -> None:
    """Check that this is a store that this program understands.

    Raises:
        UserError: it is not.
    """
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise UserError(f"{path} is not a MobiFarm store: name another file or move this one away.")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise UserError(
            f"The farm's store {path} has schema {version}, this MobiFarm knows up to {SCHEMA_VERSION}: "
            "upgrade MobiFarm."
        )
