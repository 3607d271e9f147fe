"""The store in PostgreSQL passes the tests of the SQLite file, against a real server of this test alone."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
import typer
from typer.testing import CliRunner

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed (the extra postgres)")

from hypothesis import settings  # noqa: E402

from mobifarm.controller.cli.doctor import _targets  # noqa: E402
from mobifarm.controller.cli.replay import replay as replay_command  # noqa: E402
from mobifarm.controller.core.events import DeviceAdded  # noqa: E402
from mobifarm.controller.core.step import replay  # noqa: E402
from mobifarm.controller.core.views import job_view  # noqa: E402
from mobifarm.controller.errors import HostError, UserError  # noqa: E402
from mobifarm.controller.paths import FarmPaths  # noqa: E402
from mobifarm.controller.store import move  # noqa: E402
from mobifarm.controller.store.choose import has_store, open_reader, open_store  # noqa: E402
from mobifarm.controller.store.move import move_to_postgresql  # noqa: E402
from mobifarm.controller.store.postgresql import PostgresReader, PostgresStore  # noqa: E402
from mobifarm.controller.store.read import Reader, StoreReader  # noqa: E402

DEADLINE_S = 120.0
SUITE = Path(__file__).parents[1] / "unit" / "controller" / "store"
_numbers = itertools.count()


def binary(name: str) -> str | None:
    """Debian keeps the server's programs out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of a server that listens only on a unix socket in a temporary folder."""
    initdb, postgres = binary("initdb"), binary("postgres")
    if initdb is None or postgres is None:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    as_user: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="mobifarm-pg-"))
    if os.geteuid() == 0:  # which PostgreSQL refuses
        user = pwd.getpwnam("nobody")
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        os.chown(folder, user.pw_uid, user.pw_gid)
    data = folder / "data"
    made = subprocess.run(
        [*as_user, initdb, "-D", data, "-U", "farm", "-A", "trust", "-E", "UTF8", "--locale=C"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        cwd="/",
    )
    assert made.returncode == 0, made.stderr
    command = [*as_user, postgres, "-D", data, "-k", folder, "-c", "listen_addresses="]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")
    assert process.stdout is not None
    said: list[str] = []
    reader = threading.Thread(target=process.stdout.read, daemon=True)
    url = f"postgresql://farm@/postgres?host={quote(str(folder))}"
    try:
        for line in process.stdout:
            said.append(line)
            if "ready to accept connections" in line:
                break
        else:
            raise AssertionError("".join(said))
        # Nobody reads what it says from here on, and it must not wait for that.
        reader.start()
        yield url
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if reader.ident is not None:
            reader.join(DEADLINE_S)
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def fresh(server: str) -> str:
    """URL of an empty schema."""
    schema = f"farm{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    return f"{server}&options={quote(f'-csearch_path={schema}')}"


@pytest.fixture
def path(server: str) -> str:
    return fresh(server)


def suite(name: str) -> ModuleType:
    """The tests of a module with PostgreSQL in place of the file."""
    spec = importlib.util.spec_from_file_location(f"{name}_on_postgresql", SUITE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    vars(module).update(SqliteStore=PostgresStore, StoreReader=PostgresReader)
    return module


# What is about files has its own tests below.
ABOUT_FILES = {
    "test_a_second_controller_is_refused_and_told_who_holds_the_store",
    "test_a_controller_that_was_overtaken_cannot_write",
    "test_the_store_of_a_newer_version_is_refused_by_writer_and_reader",
    "test_a_file_of_something_else_is_refused_and_left_alone",
    "test_a_damaged_event_is_refused_with_the_reason",
    "test_the_store_is_for_its_owner_alone",
    "test_a_full_disk_fails_the_waiters_and_stops_the_writer",
    "test_a_reader_cannot_write",
    "test_where_no_farm_has_run_the_user_is_told_how_to_start_one",
    "test_the_tables_have_the_columns_of_their_views",
    "test_the_store_of_an_older_version_is_read_and_completed",
}
for _module in (suite("test_sqlite"), suite("test_read")):
    _tests = {name: test for name, test in vars(_module).items() if name.startswith("test_")}
    globals().update({name: test for name, test in _tests.items() if name not in ABOUT_FILES})
_EVENTS = suite("test_read").EVENTS


@pytest.fixture(params=["while the controller runs", "after it has stopped"])
def reader(request: pytest.FixtureRequest, path: str) -> Iterator[PostgresReader]:
    with PostgresStore(path) as store:
        store.append(_EVENTS).result(60)
        if request.param == "after it has stopped":
            store.close()
        with PostgresReader(path) as reader:
            yield reader


def test_any_history_is_kept(server: str) -> None:
    histories = suite("test_histories")
    places: dict[Path, str] = {}

    def place(path: Path) -> str:
        return places.setdefault(path, fresh(server))

    histories.SqliteStore = lambda path: PostgresStore(place(path))
    histories.StoreReader = lambda path: PostgresReader(place(path))
    case = histories.Histories.TestCase
    case.settings = settings(max_examples=8, stateful_step_count=40, deadline=None)
    case("runTest").runTest()


def test_a_second_controller_is_refused_until_the_first_has_gone(path: str) -> None:
    with PostgresStore(path) as store:
        with pytest.raises(UserError, match="Another controller"):
            PostgresStore(path)
        assert store.append([DeviceAdded(1.0, "p1", "", "tcp")]).result(60) == 1
    PostgresStore(path).close()


def test_a_controller_that_was_overtaken_cannot_write(path: str) -> None:
    with PostgresStore(path) as store:
        with psycopg.connect(path, autocommit=True) as other:
            other.execute("UPDATE controller SET epoch = epoch + 1")
        for _ in range(2):
            with pytest.raises(HostError, match="taken over"):
                store.append([DeviceAdded(1.0, "p1", "", "tcp")]).result(60)


def test_a_controller_that_lost_its_connection_stops_writing(path: str) -> None:
    with PostgresStore(path) as store:
        with psycopg.connect(path, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            )
        for _ in range(2):
            with pytest.raises(HostError, match="restart the controller"):
                store.append([DeviceAdded(1.0, "p1", "", "tcp")]).result(60)
    with PostgresStore(path) as store:
        assert list(store.load()) == []


def test_a_store_that_is_not_there_or_newer_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="no farm"):
        PostgresReader(path)
    PostgresStore(path).close()
    with psycopg.connect(path, autocommit=True) as other:
        other.execute("UPDATE mobifarm_store SET schema_version = 99")
    for opener in (PostgresStore, PostgresReader):
        with pytest.raises(UserError, match=r"schema 99.*upgrade"):
            opener(path)


def test_nothing_can_be_written_through_a_reader(path: str) -> None:
    with PostgresStore(path), PostgresReader(path) as reader, pytest.raises(HostError, match="read-only"):
        reader._queries.execute("DELETE FROM events")


def test_a_phones_nul_stops_nothing(path: str) -> None:
    with PostgresStore(path) as store:
        added = DeviceAdded(1.0, "p\0", "", "tcp")
        assert store.append([added]).result(60) == 1
        assert list(store.load()) == [added]


def test_a_password_is_in_no_message() -> None:
    with pytest.raises(HostError) as raised:
        PostgresStore("postgresql://farm:hunter2@/none?host=/nowhere")
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is not None


def test_a_farm_remembers_its_database(path: str, tmp_path: Path) -> None:
    paths = FarmPaths(tmp_path)
    with open_store(paths, path) as store:
        store.append([DeviceAdded(1.0, "p1", "", "tcp")]).result(60)
    assert paths.store_url.stat().st_mode & 0o777 == 0o600
    with open_store(paths) as store, open_reader(paths) as reader:
        assert store.epoch == 2
        assert [view.device_id for view in reader.devices()] == ["p1"]
    other = FarmPaths(tmp_path / "other")
    other.home.mkdir()
    open_store(other).close()
    with pytest.raises(UserError, match="folder of its own"):
        open_store(other, path)
    with pytest.raises(UserError, match="postgresql://"):
        open_store(FarmPaths(tmp_path / "third"), "mysql://x")


def test_doctor_and_replay_know_a_farm_in_a_database(path: str, tmp_path: Path) -> None:
    home = FarmPaths(tmp_path)
    assert not has_store(home)
    with open_store(home, path) as store:
        store.append([DeviceAdded(1.0, "tcp:1.2.3.4:5", "tcp:1.2.3.4:5", "test")]).result(DEADLINE_S)
    assert has_store(home)
    assert "tcp:1.2.3.4:5" in _targets(None, home)
    app = typer.Typer()
    app.command()(replay_command)
    done = CliRunner().invoke(app, [str(tmp_path), "--check", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["events"], told["differences"]) == (1, [])


def test_a_farm_moves_with_all_that_it_knows(server: str, path: str, tmp_path: Path) -> None:
    paths = FarmPaths(tmp_path)
    with pytest.raises(UserError, match="has no farm"):
        move_to_postgresql(paths, path)
    with open_store(paths) as store:
        store.append(_EVENTS).result(60)
        with pytest.raises(UserError, match="Another controller"):
            move_to_postgresql(paths, path)
    with StoreReader(paths.database) as reader:
        before = everything(reader)
    occupied = fresh(server)
    with PostgresStore(occupied) as store:
        store.append([DeviceAdded(1.0, "p1", "", "tcp")]).result(60)
    with pytest.raises(UserError, match="name an empty database"):
        move_to_postgresql(paths, occupied)
    assert paths.database.exists()
    assert not paths.store_url.exists()

    events, kept = move_to_postgresql(paths, path)
    assert events == len(_EVENTS)
    assert not paths.database.exists()
    with StoreReader(kept) as reader:
        assert everything(reader) == before
    with open_store(paths) as store, open_reader(paths) as reader:
        assert everything(reader) == before
        assert store.epoch == 4  # of three openings of the file, one of them in vain, and this one
        assert store.append([DeviceAdded(9.0, "p9", "", "tcp")]).result(60) == events + 1
    with pytest.raises(UserError, match="has no farm"):
        move_to_postgresql(paths, path)


@pytest.mark.parametrize("table", ["events", "payloads", "results"])
def test_a_copy_that_is_not_equal_is_not_taken(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    paths = FarmPaths(tmp_path)
    with open_store(paths) as store:
        store.append(_EVENTS).result(60)
    pages = move._pages

    def damaged(path: Path) -> Iterator[tuple[str, Any]]:
        for statement, rows in pages(path):
            if statement.startswith(f"INSERT INTO {table} "):
                rows = rows[:-1]
            yield statement, rows

    monkeypatch.setattr(move, "_pages", damaged)
    with pytest.raises(HostError, match=f"the {table} in the database are not those in the file"):
        move_to_postgresql(paths, path)
    assert paths.database.exists()
    assert not paths.store_url.exists()


def everything(reader: Reader) -> list[Any]:
    found: list[Any] = [list(reader.events()), reader.jobs(), reader.devices()]
    for job in reader.jobs():
        found += [reader.spec(job.job_id), reader.trials(job.job_id), reader.attempts(job.job_id)]
        found += [list(reader.results(job.job_id))]
        found += [reader.payload(trial.trial_id) for trial in reader.trials(job.job_id)]
    return found


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(path: str) -> None:
    spec = importlib.util.spec_from_file_location("crash", Path(__file__).parent / "test_store_crash.py")
    assert spec is not None
    assert spec.loader is not None
    crash = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(crash)
    writer_code = (
        crash.WRITER.replace("store.sqlite", "store.postgresql")
        .replace("SqliteStore(Path(sys.argv[1]))", "PostgresStore(sys.argv[1])")
        .replace("SqliteStore", "PostgresStore")
    )
    acknowledged: dict[str, int] = {}
    for kill in range(3):
        with subprocess.Popen([sys.executable, "-c", writer_code, path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(7 * (kill + 1)):
                job, seq = writer.stdout.readline().split()
                acknowledged[job.decode()] = int(seq)
            writer.kill()
            *complete, _ = writer.stdout.read().split(b"\n")
            acknowledged.update((job.decode(), int(seq)) for job, seq in map(bytes.split, complete))
        wait_until_unlocked(path)
    with PostgresStore(path) as store, PostgresReader(path) as reader:
        seen = {event.job_id: seq for seq, event in reader.events()}
        assert acknowledged.items() <= seen.items()
        assert list(seen.values()) == list(range(1, len(seen) + 1))
        state = replay(store.load())
        assert reader.jobs() == [job_view(state, job) for job in state.jobs]
        for job in acknowledged:
            assert store.payload(f"{job}/0")["job"] == job


def wait_until_unlocked(path: str) -> None:
    """The server notices a killed client when it next writes to it."""
    until = time.monotonic() + DEADLINE_S
    with psycopg.connect(path, autocommit=True) as connection:
        while connection.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'").fetchone():
            assert time.monotonic() < until
            time.sleep(0.05)
