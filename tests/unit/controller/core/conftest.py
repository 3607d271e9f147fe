import pytest

from mobifarm.controller.core.check import check
from mobifarm.controller.core.conditions import NO_GATES
from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    ControllerStarted,
    DeviceAdded,
    DeviceLost,
    DeviceReady,
    DeviceStateChanged,
    HeldAttempt,
    HostJoined,
    HostLost,
    Identity,
    JobCancelled,
    JobSubmitted,
    LeaseExpired,
    LeaseGranted,
    TrialPlan,
)
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import step


class Farm:
    """A farm that is checked after every event; each method applies one and returns its commands."""

    def __init__(self):
        self.state = FarmState()
        self.now = 1000.0

    def apply(self, event):
        self.state, commands = step(self.state, event)
        check(self.state)
        return commands

    def start(self, epoch=1):
        return self.apply(ControllerStarted(self.now, epoch))

    def add(self, place, host=""):
        return self.apply(DeviceAdded(self.now, place, place, "tcp", host))

    def join(self, host="hub"):
        return self.apply(HostJoined(self.now, host, "10.0.0.2", {"mobifarm": "1"}))

    def lose_host(self, host="hub", reason="it does not answer"):
        return self.apply(HostLost(self.now, host, reason))

    def ready(
        self,
        place,
        *,
        serial=None,
        fingerprint="f",
        held=(),
        token=0,
        properties=None,
        execution="virtual",
        methods=("forward", "mobiedit"),
        session="",
    ):
        if place not in self.state.devices:
            self.add(place)
        return self.apply(
            DeviceReady(
                self.now,
                place,
                host="host",
                identity=Identity(place, serial or f"serial-{place}", fingerprint),
                properties=properties or {},
                execution=execution,
                held_attempts=tuple(HeldAttempt(*attempt) for attempt in held),
                agent_version="1",
                fencing_token=token,
                methods=tuple(methods),
                agent_session=session,
            )
        )

    def lost(self, place, reason="the cable was pulled"):
        return self.apply(DeviceLost(self.now, place, reason))

    def change(self, place, state, reason="", action=""):
        return self.apply(DeviceStateChanged(self.now, place, state, reason, action))

    def submit(
        self,
        job="job",
        trials=1,
        *,
        priority=0,
        attempt_limit=3,
        selector=None,
        methods=("forward",),
        user="user",
        gates=NO_GATES,
        groups=("",),
    ):
        plans = tuple(
            TrialPlan(
                f"{job}/{number}",
                f"label {number}",
                {},
                methods[number % len(methods)],
                groups[number % len(groups)],
            )
            for number in range(trials)
        )
        return self.apply(
            JobSubmitted(
                self.now,
                job,
                "name",
                user,
                {},
                plans,
                selector or DeviceSelector(),
                priority,
                attempt_limit,
                gates,
            )
        )

    def cancel(self, job="job"):
        return self.apply(JobCancelled(self.now, job))

    def lease(self, attempt="a1", trial="job/0", place="p1", token=None):
        token = self.state.next_fencing_token if token is None else token
        return self.apply(LeaseGranted(self.now, attempt, trial, place, token))

    def finished(self, attempt="a1", *, failed=False, token=None, place=None):
        token, place = self._address(attempt, token, place)
        return self.apply(AttemptFinished(self.now, attempt, token, place, failed, {}))

    def broke(self, attempt="a1", reason="the agent went away", *, token=None, place=None):
        token, place = self._address(attempt, token, place)
        return self.apply(AttemptFailed(self.now, attempt, token, place, reason))

    def expired(self, attempt="a1", reason="it took too long"):
        return self.apply(LeaseExpired(self.now, attempt, reason))

    def _address(self, attempt, token, place):
        known = self.state.attempts.get(attempt)
        return token or known.fencing_token, place or known.device_id

    def trial(self, trial="job/0"):
        return self.state.trials[trial]

    def device(self, place="p1"):
        return self.state.devices[place]

    def attempt(self, attempt="a1"):
        return self.state.attempts[attempt]


@pytest.fixture
def farm():
    return Farm()


@pytest.fixture
def leased():
    """A farm with two ready phones whose trial job/0 is leased to p1 as attempt a1."""
    farm = Farm()
    farm.ready("p1")
    farm.ready("p2")
    farm.submit(trials=2)
    farm.lease()
    return farm


@pytest.fixture(scope="session")
def farm_of():
    """Makes farms with so many ready phones, p0 and so on."""

    def make(phones):
        farm = Farm()
        for number in range(phones):
            farm.ready(f"p{number}")
        return farm

    return make
