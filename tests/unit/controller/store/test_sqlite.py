import sqlite3
import stat

import pytest

from mobifarm.controller.core.events import (
    AttemptFinished,
    ControllerStarted,
    DeviceAdded,
    DeviceLost,
    DeviceReady,
    DeviceTagged,
    Identity,
    JobSubmitted,
    LeaseExpired,
    LeaseGranted,
    TrialPlan,
    without_bulk,
)
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.step import replay
from mobifarm.controller.errors import Bug, HostError, UserError
from mobifarm.controller.store.read import StoreReader
from mobifarm.controller.store.sqlite import SqliteStore

WAIT_S = 60


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "farm.sqlite"


def job(job_id="job", payload=None):
    plan = TrialPlan(f"{job_id}/0", "label", {"prompt": "où?"} if payload is None else payload)
    return JobSubmitted(3.0, job_id, "name", "ann", {"model": "m"}, (plan,), DeviceSelector(), 0, 3)


def ready(place="p1"):
    identity = Identity(place, "serial", "fingerprint")
    return DeviceReady(2.0, place, "host", identity, {"ro.product.model": "m"}, "virtual", (), "1", 0)


def finished(result, token=1):
    return AttemptFinished(5.0, "a1", token, "p1", False, result)


LEASED = (DeviceAdded(1.0, "p1", "p1", "tcp"), ready(), job(), LeaseGranted(4.0, "a1", "job/0", "p1", 1))


def write(store, *events):
    return store.append(events).result(WAIT_S)


def test_what_was_appended_is_loaded_in_order_by_the_next_controller(path):
    events = (ControllerStarted(0.0, 1), *LEASED, finished({"score": 1}))
    with SqliteStore(path) as store:
        assert [write(store, event) for event in events] == [1, 2, 3, 4, 5, 6]
    with SqliteStore(path) as store:
        assert list(store.load()) == [without_bulk(event) for event in events]
        assert write(store, ControllerStarted(9.0, store.epoch)) == 7


def test_the_epoch_grows_with_every_opening(path):
    epochs = []
    for _ in range(3):
        with SqliteStore(path) as store:
            epochs.append(store.epoch)
    assert epochs == [1, 2, 3]


def test_appends_that_wait_together_are_all_durable_and_in_order(path):
    with SqliteStore(path) as store:
        futures = [store.append([DeviceAdded(1.0, f"p{n}", "", "tcp")]) for n in range(500)]
        assert [future.result(WAIT_S) for future in futures] == list(range(1, 501))
    with StoreReader(path) as reader:
        assert [event.device_id for _, event in reader.events()] == [f"p{n}" for n in range(500)]
        assert [number for number, _ in reader.events(after=498)] == [499, 500]


def test_closing_writes_what_was_appended(path):
    store = SqliteStore(path)
    future = store.append([DeviceAdded(1.0, "p1", "", "tcp")])
    store.close()
    store.close()
    assert future.result(0) == 1
    with pytest.raises(Bug, match="closed"):
        store.append([DeviceAdded(1.0, "p2", "", "tcp")])


def test_a_waiter_that_gives_up_does_not_stop_the_write(path):
    with SqliteStore(path) as store:
        future = store.append([DeviceAdded(1.0, "p1", "", "tcp")])
        assert not future.cancel()
        assert future.result(WAIT_S) == 1


def test_a_second_controller_is_refused_and_told_who_holds_the_store(path):
    with SqliteStore(path) as store:
        write(store, *LEASED)
        with pytest.raises(UserError, match=r"Another controller \(process \d+\)"):
            SqliteStore(path)
        write(store, finished({}))
    SqliteStore(path).close()


def test_a_controller_that_was_overtaken_cannot_write(path):
    with SqliteStore(path) as old:
        path.with_name("farm.sqlite.lock").unlink()
        with SqliteStore(path) as new:
            write(new, ControllerStarted(1.0, new.epoch))
            for _ in range(2):
                with pytest.raises(HostError, match="taken over"):
                    write(old, DeviceAdded(2.0, "p1", "", "tcp"))
            write(new, DeviceAdded(2.0, "p2", "", "tcp"))
    with StoreReader(path) as reader:
        assert [view.device_id for view in reader.devices()] == ["p2"]


def test_the_store_of_a_newer_version_is_refused_by_writer_and_reader(path):
    SqliteStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for opener in (SqliteStore, StoreReader):
        with pytest.raises(UserError, match=r"schema 99.*upgrade"):
            opener(path)


def test_the_store_of_an_older_version_is_read_and_completed(path):
    with SqliteStore(path) as store:
        write(store, DeviceAdded(1.0, "p1", "", "tcp"))
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE devices DROP COLUMN ready_after_s")
    connection.execute("ALTER TABLE devices DROP COLUMN tags")
    connection.close()
    with StoreReader(path) as reader:
        assert [(view.ready_after_s, view.tags) for view in reader.devices()] == [(None, None)]
    with SqliteStore(path) as store, StoreReader(path) as reader:
        identity = Identity("p1", "serial", "f")
        write(store, DeviceReady(2.0, "p1", "h", identity, {}, "virtual", (), "1", 0, (), ready_after_s=2.5))
        write(store, DeviceTagged(3.0, "p1", ("bench", "loud")))
        assert [(view.ready_after_s, view.tags) for view in reader.devices()] == [(2.5, ("bench", "loud"))]


def test_a_file_of_something_else_is_refused_and_left_alone(path):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE cats (name TEXT)")
    connection.close()
    content = path.read_bytes()
    for opener in (SqliteStore, StoreReader):
        with pytest.raises(UserError, match="not a MobiFarm store"):
            opener(path)
    path.write_text("just a letter, " * 100)
    for opener in (SqliteStore, StoreReader):
        with pytest.raises(UserError, match="not a MobiFarm store"):
            opener(path)
    path.write_bytes(content)
    assert sqlite3.connect(path).execute("SELECT count(*) FROM cats").fetchone() == (0,)


def test_a_damaged_event_is_refused_with_the_reason(path):
    with SqliteStore(path) as store:
        write(store, DeviceAdded(1.0, "p1", "", "tcp"))
    connection = sqlite3.connect(path)
    connection.execute('UPDATE events SET body = \'{"kind": "miracle", "version": 1}\'')
    connection.commit()
    connection.close()
    for _ in range(2):
        with pytest.raises(UserError, match="unknown kind 'miracle'"):
            SqliteStore(path)


def test_the_store_is_for_its_owner_alone(path):
    with SqliteStore(path) as store:
        write(store, *LEASED)
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_event_that_does_not_fit_never_reaches_the_log(path):
    with SqliteStore(path) as store:
        write(store, *LEASED)
        refused = store.append([LeaseGranted(5.0, "a2", "job/0", "p1", 2)])
        assert isinstance(refused.exception(WAIT_S), Bug)
        assert write(store, finished({})) == 5
        assert len(list(store.load())) == 5
        assert replay(store.load()).trials["job/0"].state == "done"


@pytest.mark.parametrize("result", [None, {"loss": float("nan")}, {"loss": object()}, {"text": "\ud800"}])
def test_a_result_that_is_not_json_is_refused_at_once(path, result):
    with SqliteStore(path) as store:
        write(store, *LEASED)
        with pytest.raises(Bug, match="attempt_finished cannot be written"):
            store.append([finished(result)])
        assert write(store, finished({"loss": None})) == 5


def test_a_reason_that_is_no_text_is_refused_at_once(path):
    with SqliteStore(path) as store:
        write(store, *LEASED)
        with pytest.raises(Bug, match="device_lost cannot be written"):
            store.append([DeviceLost(5.0, "p1", "\udcff")])


def test_nothing_can_be_appended_to_nothing(path):
    with SqliteStore(path) as store, pytest.raises(Bug):
        store.append([])


def test_payloads_are_kept_beside_the_log(path):
    with SqliteStore(path) as store:
        write(store, job(payload={"record": {"prompt": "où?"}}))
        assert store.payload("job/0") == {"record": {"prompt": "où?"}}
        (event,) = store.load()
        assert event.trials == (TrialPlan("job/0", "label", None),)
        with pytest.raises(UserError, match="no trial job/1"):
            store.payload("job/1")


def test_only_the_result_that_counts_is_stored_and_only_once(path):
    with SqliteStore(path) as store:
        write(store, *LEASED, finished({"who": "a stranger"}, token=7))
        write(store, finished({"who": "the lease"}), finished({"who": "an echo"}))
        write(store, job("other"), LeaseGranted(6.0, "b1", "other/0", "p1", 2))
        write(store, LeaseExpired(7.0, "b1", "it took too long"))
        write(store, AttemptFinished(8.0, "b1", 2, "p1", False, {"who": "too late"}))
        with StoreReader(path) as reader:
            (result,) = reader.results("job")
            assert (result.result, result.attempt_id, result.failed) == ({"who": "the lease"}, "a1", False)
            assert list(reader.results("other")) == []


def test_a_full_disk_fails_the_waiters_and_stops_the_writer(path):
    with SqliteStore(path) as store:
        write(store, DeviceAdded(1.0, "p1", "", "tcp"))
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        big = store.append([job(payload={"text": "x" * 100_000})])
        with pytest.raises(HostError, match="disk"):
            big.result(WAIT_S)
        store._connection.execute("PRAGMA max_page_count = 1000000")
        with pytest.raises(HostError, match="restart the controller"):
            write(store, DeviceAdded(1.0, "p2", "", "tcp"))
    with SqliteStore(path) as store:
        assert [event.device_id for event in store.load()] == ["p1"]
        assert write(store, DeviceAdded(1.0, "p2", "", "tcp")) == 2


def test_a_disk_that_does_not_even_roll_back_leaves_nobody_waiting(path, monkeypatch):
    def fail():
        raise sqlite3.OperationalError("disk I/O error")

    with SqliteStore(path) as store:
        write(store, DeviceAdded(1.0, "p1", "", "tcp"))
        monkeypatch.setattr(store._database, "commit", fail)
        monkeypatch.setattr(store._database, "roll_back", fail)
        for place in ("p2", "p3"):
            with pytest.raises(HostError, match="disk I/O error"):
                write(store, DeviceAdded(1.0, place, "", "tcp"))
    with SqliteStore(path) as store:
        assert [event.device_id for event in store.load()] == ["p1"]
