"""Everything that can happen to a farm. The log of these events is the farm's truth.

Each event carries ``at``, the unix time in seconds at which the controller learnt of it. A ``device_id``
names the physical place of a phone (its transport address), not the phone itself: that is :class:`Identity`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from typing import Any, Final, Literal

from mobifarm.controller.core.conditions import NO_GATES, Conditions, Gates
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.errors import UserError

SCHEMA_VERSION: Final = 1


class DeviceState(StrEnum):
    """Where a phone stands between being plugged in and doing work."""

    DISCOVERED = "discovered"
    AWAITING_AUTHORISATION = "awaiting_authorisation"
    CONNECTING = "connecting"
    PROVISIONING = "provisioning"
    CALIBRATING = "calibrating"
    READY = "ready"
    LEASED = "leased"
    DRAINED = "drained"
    COOLING = "cooling"
    CHARGING = "charging"
    QUARANTINED = "quarantined"
    LOST = "lost"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a phone the same phone; any change of it starts a new measurement epoch."""

    address: str
    serial: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class HeldAttempt:
    """An attempt that a phone runs, or has finished and keeps until it is acknowledged."""

    attempt_id: str
    fencing_token: int
    state: Literal["running", "finished"]


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """One unit of work. ``payload`` is None once the store keeps it beside the log: :func:`without_bulk`.

    ``method`` tells which devices can do it; logs from before it was told have "", which any phone can do.
    """

    trial_id: str
    label: str
    payload: Mapping[str, Any] | None
    method: str = ""
    group: str = ""  # trials of one group are done by one phone; "" belongs to none


@dataclass(frozen=True, slots=True)
class ControllerStarted:
    at: float
    epoch: int  # of the store; higher than that of any controller before
    policy: str = ""  # by which it schedules; "" in logs from before it was told


@dataclass(frozen=True, slots=True)
class DeviceAdded:
    """A phone was seen at this place."""

    at: float
    device_id: str
    address: str
    source: str
    host: str = ""  # the joined host that owns the place; "" for the machine of the controller


@dataclass(frozen=True, slots=True)
class DeviceForgotten:
    """An operator took the place out of the farm. Adding it again starts afresh."""

    at: float
    device_id: str


@dataclass(frozen=True, slots=True)
class DeviceStateChanged:
    """A step on the way to ready, a pause (cooling, charging) or its end, or a quarantine.

    Ready after being away, leased, lost and retired have their own events. A quarantine lasts until
    :class:`DeviceReleased` or a passed health check, across reconnections and restarts.
    """

    at: float
    device_id: str
    state: DeviceState
    reason: str = ""
    action: str = ""  # what a person should do next; empty where nothing is needed


@dataclass(frozen=True, slots=True)
class DeviceReady:
    """A new session with the phone's agent began; streams of earlier sessions are dead.

    ``fencing_token`` is the highest one that the phone has accepted, ``methods`` are those of its agent.
    ``ready_after_s``: seconds since discovery saw it plugged in; None where the session began otherwise.
    """

    at: float
    device_id: str
    host: str
    identity: Identity
    properties: Mapping[str, str]
    execution: str  # "phone", "qemu_arm64", "virtual" or "computer"
    held_attempts: tuple[HeldAttempt, ...]
    agent_version: str
    fencing_token: int
    methods: tuple[str, ...] = ()  # () in logs from before agents told them
    ready_after_s: float | None = None
    memory_total_bytes: int = 0  # 0 where it is unknown, as the next
    cpu_count: int = 0
    agent_session: str = ""  # names the agent's process: equal at two places that lead to one phone


@dataclass(frozen=True, slots=True)
class DeviceLost:
    at: float
    device_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceReleased:
    """An operator ended the phone's quarantine."""

    at: float
    device_id: str


@dataclass(frozen=True, slots=True)
class DeviceTagged:
    """An operator set the phone's tags; these are all that it has now. Another phone there has none."""

    at: float
    device_id: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeviceConditions:
    """A reading of the phone's sensors: it differs enough from the last to matter, or is a minute younger."""

    at: float
    device_id: str
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class DeviceQuarantined:
    """The phone gets no work. Unless a person said so, a health check that it passes ends it."""

    at: float
    device_id: str
    reason: str
    action: str = ""
    by_person: bool = False


@dataclass(frozen=True, slots=True)
class DeviceDrained:
    """An operator wants the phone to finish what it does and to get nothing new, until undrained."""

    at: float
    device_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeviceUndrained:
    at: float
    device_id: str


@dataclass(frozen=True, slots=True)
class RecoveryStep:
    """The host does something about a phone in trouble; ``rung`` is a Rung of :mod:`.recovery`."""

    at: float
    device_id: str
    rung: str
    number: int  # which try of this rung, from 1
    reason: str


@dataclass(frozen=True, slots=True)
class HealthCheckStarted:
    """The controller lets a quarantined phone do a small known edit."""

    at: float
    device_id: str
    check_id: str


@dataclass(frozen=True, slots=True)
class HealthChecked:
    """How the check ended; a phone that passed is released, another is quarantined for longer."""

    at: float
    device_id: str
    check_id: str
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """``priority``: higher runs first. ``attempt_limit``: leases per trial before it is abandoned, >= 1."""

    at: float
    job_id: str
    name: str
    user: str
    spec: Mapping[str, Any]  # as submitted
    trials: tuple[TrialPlan, ...]
    selector: DeviceSelector
    priority: int
    attempt_limit: int
    gates: Gates = NO_GATES  # none in logs from before there were any


@dataclass(frozen=True, slots=True)
class JobCancelled:
    at: float
    job_id: str


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """The trial belongs to the phone until the lease ends. ``fencing_token`` grows from lease to lease."""

    at: float
    attempt_id: str
    trial_id: str
    device_id: str
    fencing_token: int


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    at: float
    attempt_id: str


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    """The phone delivered a result. ``failed``: the workload could not be done, which is a result too.

    ``result`` is None once the store keeps it beside the log (see :func:`without_bulk`).
    """

    at: float
    attempt_id: str
    fencing_token: int
    device_id: str
    failed: bool
    result: Mapping[str, Any] | None
    base_proven: bool = True  # False: the model on the phone is not what it was before


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The farm failed the attempt, not the workload: it is tried again elsewhere."""

    at: float
    attempt_id: str
    fencing_token: int
    device_id: str
    reason: str
    base_proven: bool = True  # as in AttemptFinished


@dataclass(frozen=True, slots=True)
class LeaseExpired:
    at: float
    attempt_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostJoined:
    """Another machine with phones belongs to the farm, or is back; its phones report anew."""

    at: float
    host: str
    address: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HostLost:
    """A joined machine is not heard of any more, and with it all of its phones."""

    at: float
    host: str
    reason: str


Event = (
    ControllerStarted
    | DeviceAdded
    | DeviceForgotten
    | DeviceStateChanged
    | DeviceReady
    | DeviceLost
    | DeviceReleased
    | DeviceTagged
    | DeviceConditions
    | DeviceQuarantined
    | DeviceDrained
    | DeviceUndrained
    | RecoveryStep
    | HealthCheckStarted
    | HealthChecked
    | JobSubmitted
    | JobCancelled
    | LeaseGranted
    | AttemptStarted
    | AttemptFinished
    | AttemptFailed
    | LeaseExpired
    | HostJoined
    | HostLost
)

# The names are in users' logs: they outlive renamings of the classes.
_KINDS: Final[dict[str, type[Event]]] = {
    "controller_started": ControllerStarted,
    "device_added": DeviceAdded,
    "device_forgotten": DeviceForgotten,
    "device_state_changed": DeviceStateChanged,
    "device_ready": DeviceReady,
    "device_lost": DeviceLost,
    "device_released": DeviceReleased,
    "device_tagged": DeviceTagged,
    "device_conditions": DeviceConditions,
    "device_quarantined": DeviceQuarantined,
    "device_drained": DeviceDrained,
    "device_undrained": DeviceUndrained,
    "recovery_step": RecoveryStep,
    "health_check_started": HealthCheckStarted,
    "health_checked": HealthChecked,
    "job_submitted": JobSubmitted,
    "job_cancelled": JobCancelled,
    "lease_granted": LeaseGranted,
    "attempt_started": AttemptStarted,
    "attempt_finished": AttemptFinished,
    "attempt_failed": AttemptFailed,
    "lease_expired": LeaseExpired,
    "host_joined": HostJoined,
    "host_lost": HostLost,
}
_NAMES: Final = {cls: name for name, cls in _KINDS.items()}

_FIELD_DECODERS: Final[dict[tuple[type[Event], str], Callable[[Any], Any]]] = {
    (DeviceStateChanged, "state"): DeviceState,
    (DeviceReady, "identity"): lambda value: Identity(**value),
    (DeviceReady, "held_attempts"): lambda value: tuple(HeldAttempt(**held) for held in value),
    (DeviceReady, "methods"): tuple,
    (JobSubmitted, "trials"): lambda value: tuple(TrialPlan(**plan) for plan in value),
    (JobSubmitted, "selector"): lambda value: DeviceSelector(
        **{**value, "serials": tuple(value["serials"]), "where": tuple(value.get("where", ()))}
    ),
    (JobSubmitted, "gates"): lambda value: Gates(**value),
    (DeviceTagged, "tags"): tuple,
    (DeviceConditions, "conditions"): lambda value: Conditions(**value),
}
_NESTED: Final = {cls: {name for owner, name in _FIELD_DECODERS if owner is cls} for cls in _NAMES}


def kind(event: Event) -> str:
    """Name of the event's kind, as it stands in the log."""
    return _NAMES[type(event)]


def without_bulk(event: Event) -> Event:
    """The event without what deciding does not need: payloads of trials and results of attempts."""
    if isinstance(event, JobSubmitted):
        return replace(event, trials=tuple(replace(plan, payload=None) for plan in event.trials))
    if isinstance(event, AttemptFinished):
        return replace(event, result=None)
    return event


def encode(event: Event) -> dict[str, Any]:
    """The event as JSON-ready values, with ``kind`` and ``version``. Mappings inside must be JSON-ready."""
    body: dict[str, Any] = {"kind": kind(event), "version": SCHEMA_VERSION}
    for name in event.__dataclass_fields__:
        body[name] = _plain(getattr(event, name))
    return body


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, float, int)):  # what most fields are
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def decode(body: Mapping[str, Any]) -> Event:
    """The event that :func:`encode` wrote.

    Raises:
        UserError: the kind is unknown, the version is newer than this program, or the fields do not fit.
    """
    values = dict(body)
    name, version = values.pop("kind", None), values.pop("version", None)
    if not isinstance(version, int) or version < 1:
        raise UserError("An event in the log has no version: the file is damaged or not a MobiFarm log.")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"An event in the log has version {version}, this MobiFarm reads up to {SCHEMA_VERSION}: "
            "upgrade MobiFarm."
        )
    cls = _KINDS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise UserError(
            f"An event in the log has the unknown kind {name!r}: upgrade MobiFarm or repair the log."
        )
    try:
        for nested in values.keys() & _NESTED[cls]:
            values[nested] = _FIELD_DECODERS[cls, nested](values[nested])
        return cls(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"An event {name!r} in the log cannot be read ({error}): the log is damaged."
        ) from error
