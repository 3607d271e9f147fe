"""How long one round of decisions takes: 10,000 waiting trials over 1,000 phones, by policy and queue.

Prints JSON. Not a test: nothing here asserts a time. The aim is 50 ms per round on one idle core.

    python tests/bench/scheduling.py [--trials 10000] [--phones 1000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

from mobifarm.controller.core.conditions import NO_GATES, Conditions, Gates
from mobifarm.controller.core.events import (
    DeviceAdded,
    DeviceConditions,
    DeviceReady,
    Event,
    Identity,
    JobSubmitted,
    LeaseGranted,
    TrialPlan,
)
from mobifarm.controller.core.policies import POLICIES, policy_named
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import replay, step

SOCS = ("SM8350", "SM8450", "SM8550", "SM8650", "SM8750")
NOW = 10_000.0


def phones(number: int) -> list[Event]:
    """Ready phones of five kinds, with half a day of temperatures each."""
    events: list[Event] = []
    for index in range(number):
        place = f"usb:{index // 10}-{index % 10}"
        properties = {"ro.soc.model": SOCS[index % 5], "ro.build.version.release": str(11 + index % 5)}
        identity = Identity(place, f"S{index}", "f")
        events.append(DeviceAdded(0.0, place, place, "bench"))
        events.append(
            DeviceReady(
                0.0, place, "host", identity, properties, "phone", (), "1", 0, ("forward",), 8 << 30, 8
            )
        )
        for minute in range(12):
            celsius = 25.0 + (40.0 - 25.0) * 0.9**minute + index % 7
            reading = Conditions(celsius, 0.8, True, False, 1e10)
            events.append(DeviceConditions(NOW - 720.0 + 60.0 * minute, place, reading))
    return events


def jobs(
    number: int, trials: int, selector: Callable[[int], DeviceSelector], gates: Gates = NO_GATES
) -> list[Event]:
    """So many jobs of ten users, which share the trials."""
    each = trials // number
    return [
        JobSubmitted(
            1.0,
            f"job-{job}",
            "bench",
            f"user-{job % 10}",
            {},
            tuple(TrialPlan(f"job-{job}/{trial}", "fact", None, "forward") for trial in range(each)),
            selector(job),
            job % 3,
            3,
            gates,
        )
        for job in range(number)
    ]


def anything(_: int) -> DeviceSelector:
    return DeviceSelector()


def choosy(job: int) -> DeviceSelector:
    """Twenty different wishes."""
    return DeviceSelector(
        where=(f"npu.arch >= {(68, 69, 73, 75)[job % 4]}", f"android.version >= {11 + job % 5}")
    )


def spread(_: int) -> DeviceSelector:
    return DeviceSelector(placement="spread")


GATES = Gates(max_temperature_celsius=45.0, min_battery=0.15, min_free_storage_bytes=2e8)


def queues(trials: int) -> dict[str, list[Event]]:
    return {
        "one job": jobs(1, trials, anything),
        "one job with gates": jobs(1, trials, anything, GATES),
        "one job, spread": jobs(1, trials, spread),
        "100 jobs with 20 different selectors and gates": jobs(100, trials, choosy, GATES),
        "a job per trial": jobs(trials, trials, anything),
        "a job per trial, 20 different selectors": jobs(trials, trials, choosy),
    }


def busy_but(state: FarmState, free: int) -> FarmState:
    """Lease every phone but so many."""
    proposals = list(policy_named("fifo").assign(state, NOW))[free:]
    for number, proposal in enumerate(proposals):
        step(state, LeaseGranted(NOW, f"a{number}", proposal.trial_id, proposal.device_id, number + 1))
    return state


def measure(state: FarmState, name: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of processor time: a new policy's first round, which meets the phones, and later ones."""
    policy = policy_named(name)
    times = []
    for _ in range(rounds):
        began = time.process_time()
        proposed = len(policy.assign(state, NOW))
        times.append((time.process_time() - began) * 1e3)
    return {
        "proposed": proposed,
        "first_ms": round(times[0], 2),
        "median_ms": round(statistics.median(times[1:]), 2),
        "largest_ms": round(max(times[1:]), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--phones", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    results = []
    for queue, submitted in queues(arguments.trials).items():
        for free in (arguments.phones, 10):
            state = replay([*phones(arguments.phones), *submitted])
            if free < arguments.phones:
                busy_but(state, free)
            for name in POLICIES:
                figures = measure(state, name, arguments.rounds)
                results.append({"queue": queue, "free_phones": free, "policy": name, **figures})
    print(
        json.dumps(
            {
                "trials": arguments.trials,
                "phones": arguments.phones,
                "python": platform.python_version(),
                "rounds": results,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
