"""Attempts that run, are cancelled, are listened to and are kept, with a scripted editor."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from mobifarm.agent import journal as journal_module
from mobifarm.agent import kept as kept_module
from mobifarm.agent.editor.edit import EditOrder
from mobifarm.agent.editor.types import EditStatus
from mobifarm.agent.errors import (
    AgentError,
    BundleError,
    BundleNotFound,
    Busy,
    Cancelled,
    Fenced,
    InputError,
    InternalError,
    NotHeld,
    StillRunning,
    Stopping,
)
from mobifarm.agent.execution import Execution
from mobifarm.agent.fence import Fence
from mobifarm.agent.journal import Journal
from mobifarm.agent.kept import KeptEdits
from mobifarm.agent.samples import SampleFiles
from mobifarm.agent.telemetry import IdleSampler
from mobifarm.v1 import agent_pb2 as pb

Requests = Callable[..., pb.RunRequest]


@pytest.fixture
def idle() -> IdleSampler:
    """Not started: nothing is seen of the phone while it has no work, unless a test says so."""
    return IdleSampler(lambda: {})


@pytest.fixture
def start(tmp_path: Path, runner, idle: IdleSampler) -> Callable[[], Execution]:
    """Starts the agent's inner part; again on the same folder for a restart."""
    (tmp_path / "journal").mkdir()
    (tmp_path / "edits").mkdir()
    return lambda: Execution(
        runner=runner,
        journal=Journal(tmp_path / "journal"),
        kept=KeptEdits(tmp_path / "edits", runner.edit_shape),
        fence=Fence(tmp_path / "fencing_token"),
        read_sensors=lambda: {"battery/voltage": 4.0},
        samples=partial(SampleFiles, tmp_path / "journal"),
        idle=idle,
    )


@pytest.fixture
async def execution(start) -> AsyncIterator[Execution]:
    execution = start()
    yield execution
    await execution.stop(30)


async def collect(stream: AsyncIterator[pb.RunResponse]) -> list[pb.RunResponse]:
    return [message async for message in stream]


async def result_of(stream: AsyncIterator[pb.RunResponse]) -> pb.EditResult:
    messages = await collect(stream)
    assert messages[-1].WhichOneof("payload") == "result"
    assert all(message.WhichOneof("payload") != "result" for message in messages[:-1])
    return messages[-1].result


async def test_a_result_says_everything(execution: Execution, new_request: Requests):
    result = await result_of(execution.run(new_request()))

    assert result.attempt_id == "a"
    assert result.status == pb.EDIT_STATUS_CONVERGED
    assert [score.kind for score in result.scores] == [pb.PROBE_KIND_EFFICACY, pb.PROBE_KIND_PORTABILITY]
    assert result.scores[0].other_after.log_probability == -0.5
    assert not result.scores[1].HasField("other_after")
    assert (result.cost.steps, result.cost.loss_evaluations, result.cost.token_layers) == (2, 32, 640)
    assert (result.cost.load_s, result.cost.edit_s, result.cost.evaluation_s) == (0.125, 0.5, 0.25)
    assert result.cost.peak_rss_bytes > 1e6
    assert result.execution.settings_json == '{"steps":2}'
    assert len(result.execution.settings_hash) == 64
    assert result.execution.nodes_by_provider == {"CPUExecutionProvider": 9}
    assert result.execution.returned_to_base
    assert result.telemetry.samples >= 2
    assert result.telemetry.first.values == {"battery/voltage": 4.0}


async def test_the_stream_carries_every_sample_and_the_progress(execution: Execution, new_request: Requests):
    messages = await collect(execution.run(new_request()))

    progress = [message.progress for message in messages if message.HasField("progress")]
    assert progress[-1].phase == pb.EDIT_PHASE_OPTIMISING
    assert math.isnan(progress[-1].target_probability)
    samples = [sample for m in messages if m.HasField("telemetry") for sample in m.telemetry.samples]
    assert len(samples) == messages[-1].result.telemetry.samples


def samples_in(messages: list[pb.RunResponse]) -> list[pb.TelemetrySample]:
    return [sample for m in messages if m.HasField("telemetry") for sample in m.telemetry.samples]


async def test_no_sample_is_lost_to_a_stream_that_attaches_later(
    start, new_request: Requests, runner
) -> None:
    runner.go_on.clear()
    execution = start()
    stream = execution.run(new_request())
    await anext(stream)
    await stream.aclose()
    second = execution.run(new_request())
    first_message = await anext(second)
    runner.go_on.set()
    messages = [first_message, *await collect(second)]
    total = messages[-1].result.telemetry.samples
    assert len(samples_in(messages)) == total
    assert [s.monotonic_ns for s in samples_in(messages)] == sorted(
        s.monotonic_ns for s in samples_in(messages)
    )

    # Also after the end, and from the disk.
    assert samples_in(await collect(execution.run(new_request()))) == samples_in(messages)
    await execution.stop(30)
    again = start()
    messages = await collect(again.run(new_request()))
    assert len(samples_in(messages)) == total
    assert all(m.telemetry.replayed for m in messages if m.HasField("telemetry"))
    await again.acknowledge("a")
    assert list(again._journal._folder.iterdir()) == []
    await again.stop(30)


async def test_the_samples_of_an_idle_phone_stand_before_those_of_the_attempt(
    execution: Execution, new_request: Requests, idle: IdleSampler
) -> None:
    enough = threading.Event()
    idle.listen(lambda sample: enough.set())
    idle._period_s = 0.001
    idle.start()
    assert await asyncio.to_thread(enough.wait, 30)
    messages = await collect(execution.run(new_request()))
    idle.stop()
    telemetry = messages[-1].result.telemetry
    samples = samples_in(messages)
    assert telemetry.idle_samples >= 1
    assert len(samples) == telemetry.idle_samples + telemetry.samples
    assert samples[0].phase == pb.EDIT_PHASE_IDLE
    assert telemetry.phases[0].phase == pb.EDIT_PHASE_OPTIMISING


async def test_telemetry_can_be_left_off(execution: Execution, new_request: Requests) -> None:
    messages = await collect(execution.run(new_request(telemetry_off=True)))
    assert samples_in(messages) == []
    assert not messages[-1].result.HasField("telemetry")


async def test_a_phone_lies_still_first_where_that_is_asked_for(
    execution: Execution, new_request: Requests
) -> None:
    messages = await collect(execution.run(new_request(idle_window_s=0.05)))
    idle_samples = messages[-1].result.telemetry.idle_samples
    phases = [sample.phase for sample in samples_in(messages)]
    assert phases[:idle_samples] == [pb.EDIT_PHASE_IDLE] * idle_samples
    assert idle_samples >= 2
    messages = await collect(execution.run(new_request("again", idle_window_s=0.05)))
    assert messages[-1].result.telemetry.idle_samples == idle_samples  # it was known already
    with pytest.raises(InputError, match="idle_window_s"):
        await collect(execution.run(new_request("b", idle_window_s=-1.0)))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"bundle_hash": "c"}, BundleNotFound, "no bundle c"),
        ({"method": "magic"}, InputError, "magic"),
        ({"record": pb.EditRecord(subject="Bob")}, InputError, "does not occur in the prompt"),
        ({"record": pb.EditRecord(target_new=" ")}, InputError, "target_new is empty"),
        ({"settings": {"rate": math.nan}}, InputError, r"settings\.rate"),
    ],
)
async def test_bad_input_starts_nothing(
    execution: Execution, new_request: Requests, runner, changes, error, words
):
    with pytest.raises(error, match=words):
        await collect(execution.run(new_request(**changes)))
    assert execution.held() == []
    assert runner.runs == []
    await result_of(execution.run(new_request()))


async def test_an_attempt_needs_an_id_before_its_lease_counts(execution: Execution, new_request: Requests):
    with pytest.raises(InputError, match="attempt_id"):
        await collect(execution.run(new_request(attempt_id="", token=9)))
    assert execution.fencing_token == 0


async def test_one_attempt_at_a_time(execution: Execution, new_request: Requests, runner):
    runner.go_on.clear()
    first = asyncio.create_task(result_of(execution.run(new_request("a"))))
    await asyncio.to_thread(runner.started.wait)
    with pytest.raises(Busy, match="attempt a is running"):
        await collect(execution.run(new_request("b")))
    runner.go_on.set()
    await first
    await result_of(execution.run(new_request("b")))
    assert runner.most_running == 1


async def test_many_streams_hear_one_attempt(execution: Execution, new_request: Requests, runner):
    runner.go_on.clear()
    streams = [execution.run(new_request()) for _ in range(3)]
    firsts = [await anext(stream) for stream in streams]
    assert all(message.progress.step == 1 for message in firsts if message.HasField("progress"))
    await streams[0].aclose()
    runner.go_on.set()
    results = [await result_of(stream) for stream in streams[1:]]
    assert results[0] == results[1]
    assert runner.runs == ["r"]


async def test_a_closed_stream_stops_nothing_and_a_late_one_hears_the_newest(
    execution: Execution, new_request: Requests, runner
):
    runner.go_on.clear()
    stream = execution.run(new_request())
    await anext(stream)
    await stream.aclose()
    again = execution.run(new_request())
    messages = [await anext(again)]
    assert messages[0].progress.step == 1
    runner.go_on.set()
    result = await result_of(again)
    assert await result_of(execution.run(new_request())) == result
    assert runner.runs == ["r"]


async def test_cancel_ends_the_edit_with_a_result(execution: Execution, new_request: Requests, runner):
    runner.go_on.clear()
    stream = execution.run(new_request())
    await anext(stream)
    execution.cancel("a")
    result = await result_of(stream)
    assert result.status == pb.EDIT_STATUS_CANCELLED
    assert result.execution.bundle_hash == "b" * 64
    execution.cancel("a")  # a finished one stays as it is
    assert (await result_of(execution.run(new_request()))).status == pb.EDIT_STATUS_CANCELLED
    runner.go_on.set()
    assert (await result_of(execution.run(new_request("b")))).status == pb.EDIT_STATUS_CONVERGED


@pytest.mark.parametrize("returned", [True, False])
@pytest.mark.parametrize("kind", [Cancelled, InputError])
async def test_an_edit_that_did_not_run_to_its_end_proves_its_base_too(
    execution: Execution, new_request: Requests, runner, kind: type[AgentError], returned: bool
):
    def fail() -> None:
        error = kind("no")
        error.base_proof = ("hash", returned)
        raise error

    runner.act = fail
    result = await result_of(execution.run(new_request()))
    assert result.status in (pb.EDIT_STATUS_CANCELLED, pb.EDIT_STATUS_FAILED)
    assert (result.execution.base_hash, result.execution.returned_to_base) == ("hash", returned)


async def test_cancelling_what_is_not_held_is_an_error(execution: Execution):
    with pytest.raises(NotHeld, match="'x'"):
        execution.cancel("x")


async def test_a_fault_in_the_editor_is_a_result_and_an_error(
    execution: Execution, new_request: Requests, runner, caplog: pytest.LogCaptureFixture
):
    def fail() -> None:
        raise ZeroDivisionError("secret detail")

    runner.act = fail
    received: list[pb.RunResponse] = []

    async def listen() -> None:
        async for message in execution.run(new_request()):
            received.append(message)  # noqa: PERF401 - must hold what came before the error

    with caplog.at_level(logging.ERROR), pytest.raises(InternalError, match="ZeroDivisionError"):
        await listen()
    assert received[-1].result.status == pb.EDIT_STATUS_FAILED
    assert "secret detail" not in received[-1].result.message
    assert "secret detail" in caplog.text
    assert (await result_of(execution.run(new_request()))).status == pb.EDIT_STATUS_FAILED
    runner.act = lambda: None
    assert (await result_of(execution.run(new_request("b")))).status == pb.EDIT_STATUS_CONVERGED


async def test_input_that_only_the_edit_can_refuse_is_a_failed_result(
    execution: Execution, new_request: Requests, runner
):
    def refuse() -> None:
        raise InputError("too much")

    runner.act = refuse
    result = await result_of(execution.run(new_request()))
    assert (result.status, result.message) == (pb.EDIT_STATUS_FAILED, "too much")


async def test_a_damaged_bundle_is_nobodys_result(execution: Execution, new_request: Requests, runner):
    def damaged() -> None:
        raise BundleError("weights.bin is damaged")

    runner.act = damaged
    with pytest.raises(BundleError, match=r"weights\.bin"):
        await collect(execution.run(new_request()))
    assert execution.held() == []


async def test_results_outlive_the_agent_until_acknowledged(start, new_request: Requests, runner):
    before = start()
    result = await result_of(before.run(new_request(token=7)))
    await before.stop(30)

    after = start()
    assert [attempt.attempt_id for attempt in after.held()] == ["a"]
    assert after.fencing_token == 7
    with pytest.raises(InputError, match="another request"):
        await collect(after.run(new_request(token=7, seed=5)))
    assert await result_of(after.run(new_request(token=7))) == result
    assert runner.runs == ["r"]
    await after.acknowledge("a")
    await after.acknowledge("a")
    assert after.held() == []
    await after.stop(30)
    assert start().held() == []


async def test_a_running_attempt_cannot_be_acknowledged(execution: Execution, new_request: Requests, runner):
    runner.go_on.clear()
    stream = execution.run(new_request())
    await anext(stream)
    with pytest.raises(StillRunning):
        await execution.acknowledge("a")
    runner.go_on.set()
    await result_of(stream)


async def test_an_older_lease_is_refused_and_a_newer_one_takes_over(
    execution: Execution, new_request: Requests, runner
):
    runner.go_on.clear()
    stream = execution.run(new_request("a", token=5))
    await anext(stream)
    with pytest.raises(Fenced, match="4 is older than 5"):
        await collect(execution.run(new_request("b", token=4)))
    with pytest.raises(Busy):
        await collect(execution.run(new_request("b", token=6)))
    with pytest.raises(Fenced):
        await collect(execution.run(new_request("a", token=5)))
    taken_over = execution.run(new_request("a", token=6))
    await anext(taken_over)
    assert execution.held()[0].request.fencing_token == 6
    runner.go_on.set()
    assert await result_of(stream) == await result_of(taken_over)


async def test_stopping_drops_the_running_attempt(start, new_request: Requests, runner):
    runner.go_on.clear()
    execution = start()
    stream = execution.run(new_request())
    await anext(stream)
    assert await execution.stop(30)
    with pytest.raises(Stopping):
        await collect(stream)
    with pytest.raises(Stopping):
        await collect(execution.run(new_request("b")))
    assert start().held() == []


async def test_stopping_does_not_wait_for_an_editor_that_hangs(start, new_request: Requests, runner):
    hanging, free = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        free.wait()

    execution = start()
    runner.act = hang
    stream = execution.run(new_request())
    await anext(stream)
    await asyncio.to_thread(hanging.wait)
    assert not await execution.stop(0)
    with pytest.raises(Stopping):
        await collect(stream)
    free.set()


async def test_a_full_disk_loses_no_result_while_the_agent_lives(
    execution: Execution,
    new_request: Requests,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_module, "write_atomically", full)
    with caplog.at_level(logging.ERROR):
        result = await result_of(execution.run(new_request()))
    assert "is not on disk" in caplog.text
    assert await result_of(execution.run(new_request())) == result


# --- edits that are kept ------------------------------------------------------------------------------------

BUNDLE = "b" * 64


def keeping(
    new_request: Requests, record: str, attempt_id: str, how: pb.Keep = pb.KEEP_TOGETHER
) -> pb.RunRequest:
    return new_request(attempt_id, keep=how, record=pb.EditRecord(record_id=record))


async def kept_names(execution: Execution) -> list[str]:
    return [edit.edit_id for one in await execution.list_edits("") for edit in one.edits]


async def test_each_edit_is_made_beside_those_that_are_kept(start, new_request: Requests, runner):
    execution = start()
    first = await result_of(execution.run(keeping(new_request, "r1", "a")))
    second = await result_of(execution.run(keeping(new_request, "r2", "b", pb.KEEP_IN_SEQUENCE)))
    plain = await result_of(execution.run(new_request("c")))
    assert [(r.execution.edits_applied, r.execution.kept) for r in (first, second, plain)] == [
        (0, True),
        (1, True),
        (0, False),
    ]
    assert [job.keep for job in runner.jobs] == [EditOrder.TOGETHER, EditOrder.IN_SEQUENCE, None]
    assert [len(job.held or ()) for job in runner.jobs] == [0, 1, 0]
    await execution.stop(30)
    again = start()
    assert await kept_names(again) == ["r1", "r2"]
    await again.stop(30)


async def test_an_attempt_that_a_crash_took_keeps_one_edit(start, new_request: Requests, runner):
    before = start()
    await result_of(before.run(keeping(new_request, "r1", "a")))
    await result_of(before.run(keeping(new_request, "r2", "b")))
    # The state of the disk after a crash between keeping and the journal.
    await before.acknowledge("a")
    await before.stop(30)
    after = start()
    assert (await result_of(after.run(keeping(new_request, "r2", "b")))).execution.kept  # attached
    again = await result_of(after.run(keeping(new_request, "r1", "a")))
    assert (again.execution.edits_applied, again.execution.kept) == (1, True)
    retried = await result_of(after.run(keeping(new_request, "r1", "another attempt")))
    assert retried.execution.kept
    assert sorted(await kept_names(after)) == ["r1", "r2"]
    assert runner.runs == ["r1", "r2", "r1", "r1"]
    await after.stop(30)


async def test_another_request_for_a_kept_record_is_refused_before_the_search(
    execution: Execution, new_request: Requests, runner
):
    await result_of(execution.run(keeping(new_request, "r1", "a")))
    for changes in ({"seed": 9}, {"keep": pb.KEEP_IN_SEQUENCE}):
        request = keeping(new_request, "r1", "b")
        request.MergeFrom(pb.RunRequest(**changes))
        with pytest.raises(InputError, match="'r1' is already held: undo it first"):
            await collect(execution.run(request))
    with pytest.raises(InputError, match="keep is 7"):
        await collect(execution.run(new_request("c", keep=7)))
    assert runner.runs == ["r1"]


async def test_only_a_converged_edit_is_kept(execution: Execution, new_request: Requests, runner):
    runner.status = EditStatus.STEP_LIMIT
    result = await result_of(execution.run(keeping(new_request, "r1", "a")))
    assert (result.status, result.execution.kept) == (pb.EDIT_STATUS_STEP_LIMIT, False)
    assert await kept_names(execution) == []


async def test_a_cancelled_edit_is_not_kept(execution: Execution, new_request: Requests, runner):
    runner.go_on.clear()
    stream = execution.run(keeping(new_request, "r1", "a"))
    await anext(stream)
    execution.cancel("a")
    assert (await result_of(stream)).status == pb.EDIT_STATUS_CANCELLED
    assert await kept_names(execution) == []


async def test_an_edit_that_the_disk_does_not_take_has_no_result(
    execution: Execution, new_request: Requests, monkeypatch: pytest.MonkeyPatch
):
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_module, "write_atomically", full)
    with pytest.raises(InternalError, match=r"could not be kept \(No space left on device\)"):
        await collect(execution.run(keeping(new_request, "r1", "a")))
    assert execution.held() == []


async def test_kept_edits_do_not_change_under_a_running_attempt(
    execution: Execution, new_request: Requests, runner
):
    await result_of(execution.run(keeping(new_request, "r1", "a")))
    exported = await execution.export_edits(BUNDLE)
    runner.go_on.clear()
    stream = execution.run(keeping(new_request, "r2", "b"))
    await anext(stream)
    assert await kept_names(execution) == ["r1"]
    with pytest.raises(Busy):
        await execution.undo_edits(BUNDLE, None, 1)
    with pytest.raises(Busy):
        await execution.import_edits(BUNDLE, exported, 1)
    runner.go_on.set()
    await result_of(stream)
    assert await execution.undo_edits(BUNDLE, ["r1"], 1) == (["r1"], 1)
    assert (await execution.import_edits(BUNDLE, exported, 1))[1] == ["r1"]
    assert await execution.undo_edits(BUNDLE, None, 1) == (["r2", "r1"], 0)


async def test_an_older_lease_changes_no_kept_edits(execution: Execution, new_request: Requests):
    await result_of(execution.run(new_request(token=5)))
    with pytest.raises(Fenced):
        await execution.undo_edits(BUNDLE, None, 4)
    with pytest.raises(Fenced):
        await execution.import_edits(BUNDLE, b"", 4)
