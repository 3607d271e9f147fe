from dataclasses import fields

import pytest

from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    DeviceAdded,
    DeviceReady,
    Identity,
    JobSubmitted,
    LeaseGranted,
    TrialPlan,
)
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.errors import UserError
from mobifarm.controller.store.projection import PROJECTIONS
from mobifarm.controller.store.read import Reader, ResultView, StoreReader
from mobifarm.controller.store.schema import TABLE_KEYS
from mobifarm.controller.store.sqlite import SqliteStore

EVENTS = (
    DeviceAdded(1.0, "p1", "p1", "tcp"),
    DeviceReady(
        2.0, "p1", "host", Identity("p1", "s", "f"), {"ro.product.model": "m"}, "virtual", (), "1", 0
    ),
    JobSubmitted(
        3.0,
        "job-b",
        "capitals",
        "ann",
        {"model": "m"},
        tuple(TrialPlan(f"t{n}", f"edit {n}", {"n": n}) for n in range(12)),
        DeviceSelector(),
        priority=2,
        attempt_limit=3,
    ),
    LeaseGranted(4.0, "a1", "t11", "p1", 1),
    AttemptFailed(5.0, "a1", 1, "p1", "the agent went away"),
    LeaseGranted(6.0, "a2", "t11", "p1", 2),
    AttemptFinished(7.0, "a2", 2, "p1", True, {"message": "no such subject"}),
    LeaseGranted(8.0, "a3", "t2", "p1", 3),
    AttemptFinished(9.0, "a3", 3, "p1", False, {"loss": 0.5}),
    JobSubmitted(3.0, "job-a", "later", "bob", {}, (TrialPlan("u0", "", {}),), DeviceSelector(), 0, 1),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "farm.sqlite"


@pytest.fixture(params=["while the controller runs", "after it has stopped"])
def reader(request, path):
    store = SqliteStore(path)
    store.append(EVENTS).result(60)
    if request.param == "after it has stopped":
        store.close()
        assert not path.with_name("farm.sqlite-wal").exists()
    with StoreReader(path) as reader:
        yield reader
    store.close()


def test_jobs_are_listed_in_the_order_of_their_submission(reader):
    assert [(job.job_id, job.name, job.user) for job in reader.jobs()] == [
        ("job-b", "capitals", "ann"),
        ("job-a", "later", "bob"),
    ]


def test_a_job_shows_its_progress_and_its_spec(reader):
    job = reader.job("job-b")
    assert (job.state, job.trials, job.pending, job.done, job.failed) == ("running", 12, 10, 1, 1)
    assert reader.spec("job-b") == {"model": "m"}


def test_trials_and_results_come_in_the_order_of_the_plan(reader):
    assert [trial.label for trial in reader.trials("job-b")] == [f"edit {n}" for n in range(12)]
    assert [result.trial_id for result in reader.results("job-b")] == ["t2", "t11"]


def test_a_result_names_the_attempt_and_the_phone_that_it_came_from(reader):
    assert list(reader.results("job-b"))[1] == ResultView(
        failed=True,
        result={"message": "no such subject"},
        trial_id="t11",
        label="edit 11",
        attempt_id="a2",
        attempts=2,
        device_id="p1",
        serial="s",
        fingerprint="f",
        execution="virtual",
        measurement_epoch=1,
        at=7.0,
    )


def test_attempts_are_listed_as_they_were_granted(reader):
    rows = [(row.attempt_id, row.trial_id, row.state, row.reason) for row in reader.attempts("job-b")]
    assert rows == [
        ("a1", "t11", "broken", "the agent went away"),
        ("a2", "t11", "failed", ""),
        ("a3", "t2", "done", ""),
    ]


def test_a_digest_is_of_every_row(reader, monkeypatch):
    before = {table: reader.digest(table) for table in TABLE_KEYS}
    assert [before[table][0] for table in ("events", "payloads", "results")] == [10, 13, 2]
    monkeypatch.setattr("mobifarm.controller.store.read.RESULTS_PAGE", 3)
    assert {table: reader.digest(table) for table in TABLE_KEYS} == before


class OneTable:
    """Answers with the same rows, once."""

    def __init__(self, *rows):
        self.rows = [rows]

    def columns(self, table):
        return frozenset({"job_id", "body"})

    def execute(self, statement, parameters=()):
        return self.rows.pop() if self.rows else []


def test_a_digest_tells_values_apart_and_not_the_order_of_rows():
    def digest(*rows):
        return Reader(OneTable(*rows), lambda: None).digest("specs")

    assert digest(("a", "1"), ("b", "2")) == digest(("b", "2"), ("a", "1"))
    several = [(), (("a", "1"),), (("a", "2"),), (("a", None),), (("a", "1"), ("a", "1")), (("", "a1"),)]
    assert len({digest(*rows) for rows in several}) == len(several)


def test_phones_are_listed_with_their_properties(reader):
    (phone,) = reader.devices()
    assert (phone.device_id, phone.state, phone.model, phone.leases_granted) == ("p1", "ready", "m", 3)
    assert reader.properties("p1") == {"ro.product.model": "m"}


def test_what_is_not_there_is_a_users_mistake(reader):
    for ask in (reader.job, reader.trials, reader.attempts, reader.spec):
        with pytest.raises(UserError, match="no job nothing"):
            ask("nothing")
    with pytest.raises(UserError, match="no job nothing"):
        next(reader.results("nothing"))
    with pytest.raises(UserError, match="no trial nothing"):
        reader.payload("nothing")
    with pytest.raises(UserError, match="nothing"):
        reader.properties("nothing")


def test_a_reader_follows_the_writer(path):
    with SqliteStore(path) as store, StoreReader(path) as reader:
        assert reader.jobs() == []
        store.append(EVENTS).result(60)
        assert len(reader.jobs()) == 2
        assert len(list(reader.events(after=8))) == 2


def test_a_reader_cannot_write(path):
    with SqliteStore(path), StoreReader(path) as reader, pytest.raises(Exception, match="readonly"):
        reader._connection.execute("DELETE FROM events")


def test_where_no_farm_has_run_the_user_is_told_how_to_start_one(path):
    with pytest.raises(UserError, match="mobifarm up"):
        StoreReader(path)
    assert not path.exists()


def test_the_tables_have_the_columns_of_their_views(path):
    with SqliteStore(path), StoreReader(path) as reader:
        for projection in PROJECTIONS:
            columns = reader._connection.execute(f"SELECT name FROM pragma_table_info('{projection.table}')")
            assert [name for (name,) in columns] == [field.name for field in fields(projection.view)]
