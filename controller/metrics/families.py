"""The catalogue of what ``/metrics`` tells: name, kind, labels, and what it means. Base units, no ids.

The renderer, the documentation and the tests all go by these lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["gauge", "counter", "histogram", "summary"]

_PROVENANCE: Final = "Never add provenance 'modelled', of virtual phones, to 'measured'."


@dataclass(frozen=True, slots=True)
class Family:
    """A metric; ``help`` is the text after ``# HELP``."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, help_: str, *labels: str) -> Family:
    return Family(name, "gauge", help_, labels)


def _counter(name: str, help_: str, *labels: str) -> Family:
    return Family(name, "counter", help_, labels)


# --- one phone --------------------------------------------------------------------------------------

UP: Final = _gauge(
    "mobifarm_device_up",
    "1 while the phone is connected and can work; 0 for 15 minutes after it went away, then nothing until it "
    "is back. A phone that is away has no other series.",
    "device",
)
INFO: Final = _gauge(
    "mobifarm_device_info",
    "Always 1; its labels say what the phone is.",
    *("device", "host", "model", "soc", "android", "execution", "provenance", "agent_version"),
)
STATE: Final = _gauge(
    "mobifarm_device_state",
    "Always 1; the label is the state of a phone that is connected, or that comes for the first time.",
    "device",
    "state",
)
LEASED: Final = _gauge("mobifarm_device_leased", "1 while an edit has the phone.", "device")
LEASES: Final = _counter(
    "mobifarm_device_leases_total", "Edits that the phone was given, by the farm's log.", "device"
)
READY_AFTER: Final = _gauge(
    "mobifarm_device_ready_after_seconds",
    "From plugging the phone in to its being ready, the last time that both were seen.",
    "device",
)
POWER: Final = _gauge(
    "mobifarm_device_power_watts",
    "Mean power of each rail since the reading before. A phone without readable rails has the one rail "
    "'battery', and only while nothing charges it. The sum over the rails is what the phone uses. "
    + _PROVENANCE,
    *("device", "rail", "provenance"),
)
ENERGY: Final = _counter(
    "mobifarm_device_energy_joules_total",
    "Energy of each rail since the phone started, from the phone's own counter. For trends: the energy of an "
    "edit comes from raw samples, never from this. " + _PROVENANCE,
    *("device", "rail", "provenance"),
)
BATTERY_POWER: Final = _gauge(
    "mobifarm_device_battery_power_watts",
    "Power into the battery, below 0 out of it. While the phone charges it is not what the phone uses. "
    "Absent until the gauge has shown which way it counts. " + _PROVENANCE,
    *("device", "provenance"),
)
BODY_TEMPERATURE: Final = _gauge(
    "mobifarm_device_body_temperature_celsius",
    "The battery's, or the skin's where the battery has no sensor: what the farm's gates look at. "
    + _PROVENANCE,
    *("device", "provenance"),
)
TEMPERATURE: Final = _gauge(
    "mobifarm_device_temperature_celsius",
    "Each thermal zone under the vendor's name. " + _PROVENANCE,
    *("device", "zone", "provenance"),
)
THERMAL_STATUS: Final = _gauge(
    "mobifarm_device_thermal_status",
    "Android's: 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown. " + _PROVENANCE,
    *("device", "provenance"),
)
CLOCK: Final = _gauge(
    "mobifarm_device_clock_hertz",
    "The fastest processor core's clock now. " + _PROVENANCE,
    *("device", "provenance"),
)
BATTERY: Final = _gauge(
    "mobifarm_device_battery_ratio",
    "Share of the battery's charge, 0 to 1. " + _PROVENANCE,
    *("device", "provenance"),
)
CHARGING: Final = _gauge(
    "mobifarm_device_charging", "1 while the battery takes charge. " + _PROVENANCE, "device", "provenance"
)
AGENT_MEMORY: Final = _gauge(
    "mobifarm_device_agent_resident_memory_bytes", "Resident memory of the agent's process.", "device"
)
MEMORY_AVAILABLE: Final = _gauge(
    "mobifarm_device_memory_available_bytes", "Memory that the phone's kernel could still give.", "device"
)
MEMORY_TOTAL: Final = _gauge(
    "mobifarm_device_memory_bytes", "Memory that the phone's kernel manages.", "device"
)
STORAGE: Final = _gauge(
    "mobifarm_device_storage_available_bytes", "What the agent may still write on the phone.", "device"
)
PROBABILITY: Final = _gauge(
    "mobifarm_device_edit_target_probability_ratio",
    "Probability of the new target in the running edit.",
    "device",
)
STEP: Final = _gauge("mobifarm_device_edit_step", "Step that the running edit is at.", "device")
PHASE: Final = _gauge(
    "mobifarm_device_edit_phase", "Always 1; the label is the phase of the running edit.", "device", "phase"
)
NPU_FALLBACK: Final = _gauge(
    "mobifarm_device_npu_fallback",
    "1 where the newest result of this connection was computed on the CPU of a real phone whose chip has an "
    "NPU that MobiFarm knows; 0 for every other result. Only a bundle built with --npu can run on an NPU. "
    "Always 0 on virtual phones, whose NPU is an emulator at best.",
    "device",
)

DEVICE_FAMILIES: Final[Sequence[Family]] = (
    *(UP, INFO, STATE, LEASED, LEASES, READY_AFTER, POWER, ENERGY, BATTERY_POWER, BODY_TEMPERATURE),
    *(TEMPERATURE, THERMAL_STATUS, CLOCK, BATTERY, CHARGING, AGENT_MEMORY, MEMORY_AVAILABLE, MEMORY_TOTAL),
    *(STORAGE, PROBABILITY, STEP, PHASE, NPU_FALLBACK),
)

# --- the farm ---------------------------------------------------------------------------------------

HOST_UP: Final = _gauge(
    "mobifarm_host_up",
    "1 for each machine with phones that belongs to the farm now, 0 while it is away.",
    "host",
)
JOBS: Final = _gauge("mobifarm_jobs", "Jobs that have not ended: queued or running.", "state")
OPEN_TRIALS: Final = _gauge("mobifarm_open_trials", "Trials that wait (pending) or run (leased).", "state")
TRIALS: Final = _counter(
    "mobifarm_trials_total",
    "Trials that have ended, by the farm's log: done, failed by the workload, abandoned after as many tries "
    "as the job allows, cancelled.",
    "outcome",
)
QUEUE_AGE: Final = _gauge(
    "mobifarm_queue_oldest_seconds", "How long the oldest waiting trial has been there; 0 where none waits."
)
STANDSTILL: Final = _gauge(
    "mobifarm_job_standstill_seconds",
    "Of the open job that has stood still the longest: seconds since one of its trials began, made a step or "
    "ended. 0 without an open job.",
)
NOISE_FLOOR: Final = _gauge(
    "mobifarm_noise_floor_ratio",
    "Of the newest job with a design that ended: below this the mean of its A/A differences stays in 95 % of "
    "cases. Ratios for seconds, memory and counts, differences for success. Nothing until such a job ended.",
    "measure",
)
LOOP_LAG: Final = _gauge(
    "mobifarm_controller_loop_lag_seconds",
    "How late the controller's event loop came, the worst of the last 15 seconds.",
)

FARM_FAMILIES: Final[Sequence[Family]] = (
    *(HOST_UP, JOBS, OPEN_TRIALS, TRIALS, QUEUE_AGE, STANDSTILL, NOISE_FLOOR, LOOP_LAG),
)

# --- counted while the controller runs; they begin anew with it -------------------------------------

_EDIT: Final = ("method", "execution")

ATTEMPTS: Final = _counter(
    "mobifarm_attempts_total",
    "Leases that ended since the controller started: done, failed (by the workload), broken (by the farm or "
    "a phone), expired.",
    "outcome",
)
EDITS: Final = _counter(
    "mobifarm_edits_total",
    "Results since the controller started: converged, step_limit (written back all the same), failed.",
    *(*_EDIT, "status"),
)
DURATION: Final = Family(
    "mobifarm_edit_duration_seconds",
    "histogram",
    "Seconds of an edit by the phone's clock: load (the model, 0 where it was there), edit (cache to "
    "write-back), evaluation. On execution 'virtual' and 'computer' it is this computer's time.",
    ("phase", *_EDIT),
)
EVALUATIONS: Final = _counter(
    "mobifarm_edit_loss_evaluations_total", "Loss evaluations of all edits that ran to their end.", *_EDIT
)
TOKEN_LAYERS: Final = _counter(
    "mobifarm_edit_token_layers_total",
    "Tokens times layers computed for edits that ran to their end.",
    *_EDIT,
)
QUALITY: Final = Family(
    "mobifarm_edit_quality_ratio",
    "summary",
    "Sum and number of the shares of prompts answered as wanted after an edit that ran to its end: "
    "edit_success, paraphrase_success, neighbourhood_success. For trends; `mobifarm results` has intervals.",
    ("measure", *_EDIT),
)

TALLY_FAMILIES: Final[Sequence[Family]] = (ATTEMPTS, EDITS, DURATION, EVALUATIONS, TOKEN_LAYERS, QUALITY)

ALL_FAMILIES: Final[Sequence[Family]] = (*DEVICE_FAMILIES, *FARM_FAMILIES, *TALLY_FAMILIES)


def documentation() -> str:
    """The table of docs/monitoring.md; ``python -m mobifarm.controller.metrics.families`` prints it."""
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for family in ALL_FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(documentation(), end="")
