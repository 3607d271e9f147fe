"""What the farm is: phones, jobs, trials, attempts. Only :mod:`.step` changes it.

The objects are changed in place: copying maps of ten thousand trials at every event would make replay
quadratic. Everybody but ``step`` treats them as read-only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from mobifarm.controller.core.conditions import NO_GATES, UNKNOWN, Conditions, Gates
from mobifarm.controller.core.events import DeviceState, Identity
from mobifarm.controller.core.selector import COMPUTER, DeviceSelector
from mobifarm.controller.core.thermal import Thermal
from mobifarm.workloads.clauses import Value

CONNECTED: Final = frozenset({DeviceState.READY, DeviceState.COOLING, DeviceState.CHARGING})


class JobState(StrEnum):
    QUEUED = "queued"  # nothing of it has been leased yet
    RUNNING = "running"
    DONE = "done"  # every trial has ended, some perhaps failed or abandoned
    CANCELLED = "cancelled"


class TrialState(StrEnum):
    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"  # by the workload's fault: a result
    ABANDONED = "abandoned"  # by the farm's fault, as often as the job allows
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    LEASED = "leased"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"  # by the workload's fault
    BROKEN = "broken"  # by the farm's fault
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class HostState(StrEnum):
    JOINED = "joined"
    EXPECTED = "expected"  # the controller was restarted, and it has not joined again yet
    LOST = "lost"


LIVE: Final = frozenset({AttemptState.LEASED, AttemptState.RUNNING})
DELIVERED: Final = frozenset({AttemptState.DONE, AttemptState.FAILED})


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why the phone gets no work, and what a person should do.

    ``next_check_at``: unix time from which a health check may end it; None where only a person does.
    """

    reason: str
    action: str
    next_check_at: float | None = None


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A check that runs on the phone now."""

    check_id: str
    started_at: float


@dataclass(slots=True)
class Device:
    """A place and the phone last seen there. ``stage`` is what its link says, ``state`` the whole picture."""

    device_id: str
    address: str
    source: str
    stage: DeviceState
    changed_at: float  # unix time since when ``state`` is what it is; of a lease, since when it runs
    reason: str = ""
    action: str = ""
    host: str = ""
    joined_host: str = ""  # the host to ask for it; "" for the machine of the controller
    identity: Identity | None = None  # None until first ready
    properties: Mapping[str, str] = field(default_factory=dict)
    execution: str | None = None
    methods: tuple[str, ...] = ()
    agent_version: str = ""
    ready_after_s: float | None = None  # from plugging in to ready, the last time that both were seen
    measurement_epoch: int = 0  # 0 until first ready, then counted up with every new identity
    quarantine: Quarantine | None = None
    health_check: HealthCheck | None = None
    strikes: int = 0  # quarantines and failed checks since its last result: how long the next one lasts
    agent_session: str = ""  # names the agent's process that answers there
    same_as: str | None = None  # another place of the same phone, which gets its work; see .twins
    drained: str | None = None  # why an operator gives it nothing new; None where it may get work
    consecutive_failures: int = 0
    attempt_id: str | None = None  # of the live lease
    stopping_attempt_id: str | None = None  # its lease has ended, the phone has not yet said that it stopped
    leases_granted: int = 0
    memory_total_bytes: int = 0
    cpu_count: int = 0
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, Value] = field(default_factory=dict)  # replaced, never changed in place
    conditions: Conditions = UNKNOWN
    conditions_at: float = -math.inf  # unix time of the reading
    thermal: Thermal = field(default_factory=Thermal)

    @property
    def connected(self) -> bool:
        return self.stage in CONNECTED

    @property
    def state(self) -> DeviceState:
        if self.stage in (DeviceState.LOST, DeviceState.RETIRED):
            return self.stage
        if self.connected and self.attempt_id is not None:
            return DeviceState.LEASED
        if self.quarantine is not None:
            return DeviceState.QUARANTINED
        if self.connected and self.drained is not None:
            return DeviceState.DRAINED
        return self.stage

    def supports(self, method: str) -> bool:
        """Whether its agent does edits with this method; see TrialPlan for one without a name."""
        return method in self.methods if method else self.execution != COMPUTER

    @property
    def usable(self) -> bool:
        """Whether it works or could work: connected, not in quarantine, not drained, no twin of another."""
        return self.connected and self.quarantine is None and self.drained is None and self.same_as is None

    @property
    def free(self) -> bool:
        """Whether a lease can be granted now; cooling and charging are the wish of some job, not of all."""
        return (
            self.stage in CONNECTED
            and self.quarantine is None
            and self.drained is None
            and self.same_as is None
            and self.health_check is None
            and self.attempt_id is None
            and self.stopping_attempt_id is None
        )


@dataclass(slots=True)
class Home:
    """The phone that a group of trials stays on, once it has done one of them."""

    device_id: str
    measurement_epoch: int
    results: int = 0


@dataclass(slots=True)
class Work:
    """Leases that ended with a result: how many, and their seconds."""

    leases: int = 0
    seconds: float = 0.0

    @property
    def mean_s(self) -> float | None:
        return self.seconds / self.leases if self.leases else None


@dataclass(frozen=True, slots=True)
class Usage:
    """Device-seconds of a user at a time, see :func:`.transitions.usage_at`."""

    seconds: float = 0.0
    at: float = 0.0


@dataclass(slots=True)
class Job:
    job_id: str
    name: str
    user: str
    selector: DeviceSelector
    priority: int
    attempt_limit: int
    submitted_at: float
    sequence: int  # order of submission
    trial_ids: tuple[str, ...]
    pending: dict[str, list[int]]  # by method: positions in trial_ids, ascending
    counts: dict[TrialState, int]
    gates: Gates = NO_GATES
    lane: int = 0  # equal where two jobs may start on the same phones: number in FarmState.lanes
    cancelled_at: float | None = None
    finished_at: float | None = None
    homes: dict[str, Home] = field(default_factory=dict)  # by group
    shares: dict[str, int] = field(default_factory=dict)  # by phone: trials that it does or has done
    work: Work = field(default_factory=Work)

    @property
    def open(self) -> bool:
        return self.counts[TrialState.PENDING] + self.counts[TrialState.LEASED] > 0

    @property
    def state(self) -> JobState:
        if self.cancelled_at is not None:
            return JobState.CANCELLED
        if not self.open:
            return JobState.DONE
        if self.counts[TrialState.PENDING] == len(self.trial_ids):
            return JobState.QUEUED
        return JobState.RUNNING


@dataclass(slots=True)
class Trial:
    trial_id: str
    job_id: str
    position: int  # in the job
    label: str
    method: str = ""
    group: str = ""
    state: TrialState = TrialState.PENDING
    not_before: float = 0.0  # unix time of the end of the back-off
    attempt_ids: list[str] = field(default_factory=list)
    result_attempt_id: str | None = None  # the one attempt whose result counts


@dataclass(slots=True)
class Attempt:
    """A lease of a phone to a trial and what became of it; ``identity`` is the phone's at that time."""

    attempt_id: str
    trial_id: str
    job_id: str
    device_id: str
    fencing_token: int
    identity: Identity
    execution: str
    measurement_epoch: int
    granted_at: float
    counted_from: (
        float  # the attempt's time limit counts from here; a stopped controller's time does not count
    )
    state: AttemptState = AttemptState.LEASED
    started_at: float | None = None
    lost_at: float | None = None  # since when the phone is away; None while it is connected
    ended_at: float | None = None
    reason: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE


@dataclass(slots=True)
class Host:
    """A machine that has joined the farm; the controller's own machine is not one of them."""

    name: str
    state: HostState
    address: str
    versions: Mapping[str, str]
    changed_at: float
    reason: str = ""


@dataclass(slots=True)
class Changes:
    """Ids of what has changed since :func:`take_changes` was last called."""

    devices: set[str] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)
    trials: set[str] = field(default_factory=set)
    attempts: set[str] = field(default_factory=set)


@dataclass(slots=True)
class FarmState:
    devices: dict[str, Device] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    leases: dict[str, Attempt] = field(default_factory=dict)  # the live ones of the attempts
    backing_off: dict[str, float] = field(default_factory=dict)  # pending trials that broke -> not_before
    waiting: dict[str, Job] = field(default_factory=dict)  # jobs with pending trials, in no order
    lanes: dict[tuple[object, ...], int] = field(default_factory=dict)  # what jobs ask of phones -> number
    usage: dict[str, Usage] = field(default_factory=dict)  # by user
    places: dict[str, list[str]] = field(default_factory=dict)  # by agent_session: where it was met, in order
    work: Work = field(default_factory=Work)
    policy: str = ""  # of the last controller
    epoch: int = 0
    next_fencing_token: int = 1
    changes: Changes = field(default_factory=Changes, compare=False, repr=False)


def take_changes(state: FarmState) -> Changes:
    """What has changed since the last call; for whoever keeps a projection of the state."""
    changes, state.changes = state.changes, Changes()
    return changes
