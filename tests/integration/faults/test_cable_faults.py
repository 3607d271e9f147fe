"""Cables: half open, slow, pulled a hundred times; and a phone that nothing but a reboot helps."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from mobifarm.controller.core.events import DeviceLost, RecoveryStep
from mobifarm.controller.host.recovery import Rung
from mobifarm.simulator.virtual_phones import VirtualPhones

QUICK = {"step_limit": 2}
SLOW = {"stop_probability": 0.9999, "step_limit": 400}
CYCLES = 100


async def test_a_half_open_link_is_noticed_and_the_same_attempt_goes_on(
    start: Any, phones: VirtualPhones, cables: Callable[[str], Any]
) -> None:
    cable = cables(phones.phones[0].address)
    async with start() as farm:
        await farm.add(cable.address)
        job_id = await farm.submit(1, SLOW)
        attempt = await farm.running(job_id)
        cable.go_half_open()
        await farm.until(lambda: farm.events(DeviceLost), "the farm noticing it")
        await farm.done(job_id)
        await farm.nothing_lost_nothing_doubled(job_id)
        (trial,) = farm.farm.state.trials.values()
        # Nobody knows whether the agent or the link was at fault: resumed, or done once more.
        assert attempt.attempt_id in trial.attempt_ids
        await farm.phones_hold_nothing()


async def test_a_slow_phone_is_waited_for(
    start: Any, phones: VirtualPhones, cables: Callable[[str], Any]
) -> None:
    cable = cables(phones.phones[0].address)
    async with start() as farm:
        await farm.add(cable.address)
        cable.delay_s = 0.3
        job_id = await farm.submit(2, QUICK)
        await farm.done(job_id)
        await farm.nothing_lost_nothing_doubled(job_id)
        state = farm.farm.state
        assert [len(state.trials[name].attempt_ids) for name in state.jobs[job_id].trial_ids] == [1, 1]
        assert farm.events(RecoveryStep) == []


async def test_a_hundred_times_unplugged_and_plugged_in_again(start: Any, phones: VirtualPhones) -> None:
    control = phones.control(0)
    async with start() as farm:
        await farm.add(phones.phones[0].address)
        job_id = await farm.submit(4, QUICK)
        device = farm.farm.state.devices[phones.phones[0].address]
        open_before = 0
        for cycle in range(CYCLES):
            control.unplug()
            if cycle % 20 == 0:
                await farm.until(lambda: not device.connected, "the farm noticing the loss")
            control.plug()
            if cycle % 20 == 0:
                await farm.until(lambda: device.connected, "the phone's return")
                open_before = open_before or len(os.listdir("/proc/self/fd"))
        await farm.until(lambda: device.connected, "the phone's return")
        await farm.done(job_id)
        await farm.nothing_lost_nothing_doubled(job_id)
        assert device.quarantine is None, "a cable is no fault of the phone's"
        assert farm.events(RecoveryStep) == []
        await farm.phones_hold_nothing()
        assert len(os.listdir("/proc/self/fd")) < open_before + 20, "links are left open"


async def test_a_rebooted_phone_comes_back_with_what_it_had(start: Any, phones: VirtualPhones) -> None:
    address = phones.phones[0].address
    async with start() as farm:
        await farm.add(address)
        before = phones.control(0).status()["adbd_pid"]
        device = farm.farm.state.devices[address]
        await farm.host._mender(address)(Rung.REBOOT)
        await farm.until(lambda: farm.events(DeviceLost), "the farm noticing the reboot")
        await farm.until(lambda: device.connected, "the phone's return")
        assert phones.control(0).status()["adbd_pid"] != before
        job_id = await farm.submit(1, QUICK)
        await farm.done(job_id)
        await farm.nothing_lost_nothing_doubled(job_id)
