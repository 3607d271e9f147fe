"""Faults of a phone's agent and of its disk: nothing is lost and nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mobifarm.controller.core.events import HealthChecked, RecoveryStep
from mobifarm.controller.core.state import AttemptState
from mobifarm.simulator.virtual_phones import VirtualPhones

# Seconds of work, so that the fault meets a running edit.
SLOW = {"stop_probability": 0.9999, "step_limit": 400}
AGENT = "$(cat ${ANDROID_DATA:-/data}/local/tmp/mobifarm/agent/lock)"


def addresses(phones: VirtualPhones) -> list[str]:
    return [phone.address for phone in phones.phones]


async def test_a_killed_agent_is_started_again_and_its_edit_is_done(
    start: Any, phones: VirtualPhones, shell: Callable[[str, str], str]
) -> None:
    async with start() as farm:
        await farm.add(*addresses(phones))
        job_id = await farm.submit(2, SLOW)
        attempt = await farm.running(job_id)
        shell(attempt.device_id, f"kill -9 {AGENT}")
        await farm.done(job_id)
        await farm.nothing_lost_nothing_doubled(job_id)
        assert farm.farm.state.attempts[attempt.attempt_id].state is AttemptState.BROKEN
        steps = farm.events(RecoveryStep)
        assert [(step.device_id, step.rung) for step in steps] == [(attempt.device_id, "reconnect")]
        await farm.phones_hold_nothing()


async def test_a_stopped_agent_is_killed_and_started_again_by_the_ladder(
    start: Any, phones: VirtualPhones, shell: Callable[[str, str], str]
) -> None:
    async with start() as farm:
        await farm.add(*addresses(phones))
        job_id = await farm.submit(2, SLOW)
        attempt = await farm.running(job_id)
        before = shell(attempt.device_id, f"echo {AGENT}")
        shell(attempt.device_id, f"kill -STOP {AGENT}")
        await farm.done(job_id)
        await farm.nothing_lost_nothing_doubled(job_id)
        device = farm.farm.state.devices[attempt.device_id]
        await farm.until(lambda: device.connected, "the phone's return")
        assert shell(attempt.device_id, f"echo {AGENT}") != before
        rungs = [step.rung for step in farm.events(RecoveryStep)]
        assert rungs[0] == "reconnect"
        assert rungs[-1] == "restart_agent"
        assert rungs == sorted(rungs, key=["reconnect", "restart_agent"].index)
        await farm.phones_hold_nothing()


async def test_a_full_disk_costs_no_result_and_ends_in_a_quarantine_that_a_check_ends(
    start: Any, phones: VirtualPhones
) -> None:
    """Space on the phone: the other one does the work; with space again, an edit proves it and it returns."""
    sick, well = addresses(phones)
    control = phones.control(0)
    async with start() as farm:
        await farm.add(sick)
        warm = await farm.submit(1, {"step_limit": 2})
        await farm.done(warm)  # it has the model from now on
        control.fill_disk()
        try:
            job_id = await farm.submit(4, {"step_limit": 2}, attempts=9)
            device = farm.farm.state.devices[sick]

            await farm.until(lambda: device.quarantine, "a quarantine", skipping=True)
            assert "free space on the phone" in device.quarantine.reason
            await farm.add(well)
            await farm.done(job_id)
            await farm.nothing_lost_nothing_doubled(job_id)
            assert {
                attempt.device_id
                for attempt in farm.farm.state.attempts.values()
                if attempt.job_id == job_id and attempt.state is AttemptState.DONE
            } == {well}
            await farm.skip(40)
            checks = await farm.until(lambda: farm.events(HealthChecked), "a health check")
            assert not any(check.passed for check in checks)
            assert "free space on the phone" in device.quarantine.reason
        finally:
            control.free_disk()
        await farm.skip(3600)
        await farm.until(lambda: device.quarantine is None, "the phone's release")
        assert farm.events(HealthChecked)[-1].passed
        assert "done and undone" in farm.events(HealthChecked)[-1].reason
        again = await farm.submit(1, {"step_limit": 2}, devices={"serials": [device.identity.serial]})
        await farm.done(again)
        await farm.nothing_lost_nothing_doubled(again)
        await farm.phones_hold_nothing()
