"""Results on disk: what was written is read back, what is damaged is never taken for a result."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobifarm.agent import files
from mobifarm.agent.journal import DamagedEntryError, Journal, decode, encode
from mobifarm.v1.agent_pb2 import EDIT_STATUS_CONVERGED, EditRecord, EditResult, RunRequest

requests = st.builds(
    RunRequest,
    attempt_id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=50),
    fencing_token=st.integers(0, 2**64 - 1),
    record=st.builds(EditRecord, prompt=st.text(st.characters(codec="utf-8"))),
)
results = st.builds(
    EditResult,
    status=st.integers(0, 4),
    message=st.text(st.characters(codec="utf-8")),
    attempt_id=st.just("a"),
)


@given(requests, results)
def test_entry_round_trip(request_, result):
    assert decode(encode(request_, result)) == (request_, result)


@given(requests, results, st.data())
def test_no_damage_passes_for_a_result(request_, result, data):
    content = encode(request_, result)
    cut = data.draw(st.integers(0, len(content) - 1))
    try:
        survived = decode(content[:cut])
    except DamagedEntryError:
        pass
    else:  # only where the cut removed nothing that was written
        assert survived == (request_, result)
    position = data.draw(st.integers(content.index(b"\n") + 1, len(content)))
    flipped = bytearray(content + b"\0")
    flipped[position] ^= 0xFF
    with pytest.raises(DamagedEntryError):
        decode(bytes(flipped))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(requests, unique_by=lambda request: request.attempt_id, max_size=5), results)
def test_a_new_journal_on_the_same_folder_holds_the_same(tmp_path_factory, some, result):
    folder = tmp_path_factory.mktemp("journal")
    for request in some:
        Journal(folder).write(request, result)
    assert sorted(r.attempt_id for r, _ in Journal(folder).load()) == sorted(r.attempt_id for r in some)
    for request in some:
        Journal(folder).remove(request.attempt_id)
    assert list(Journal(folder).load()) == []


def test_a_crash_while_writing_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = Journal(tmp_path)
    request = RunRequest(attempt_id="a")
    journal.write(request, EditResult(message="old"))

    def crash(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", crash)
        with pytest.raises(OSError, match="No space"):
            journal.write(request, EditResult(message="new"))
    (tmp_path / "half.result.tmp").write_bytes(b"half")

    assert [result.message for _, result in journal.load()] == ["old"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".result"]


def test_a_damaged_file_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    journal = Journal(tmp_path)
    journal.write(RunRequest(attempt_id="good"), EditResult(status=EDIT_STATUS_CONVERGED))
    (tmp_path / "x.result").write_bytes(b"garbage")

    with caplog.at_level(logging.ERROR):
        assert [request.attempt_id for request, _ in journal.load()] == ["good"]
    assert "x.result is damaged" in caplog.text
    assert (tmp_path / "x.damaged").exists()


def test_removing_what_is_not_there_is_no_error(tmp_path: Path):
    Journal(tmp_path).remove("unknown")
