"""The Grafana dashboards as code: ``python -m mobifarm.dashboards.boards`` writes ``dashboards/grafana``.

Needs grafana-foundation-sdk (extra ``dev``); who only uses the dashboards needs the JSON alone. Jobs and
records are no labels of metrics, so the board of a job shows the work that goes on, by method and phone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mobifarm.dashboards.panels import Board, Panel, Query

FOLDER: Final = Path(__file__).parent / "grafana"
MODELLED: Final = "'modelled' comes from a model of a virtual phone, 'measured' from a real one."


def _number(title: str, expression: str, unit: str = "short", description: str = "") -> Panel:
    return Panel(title, [Query(expression)], unit, description, now=True)


FARM: Final = Board(
    uid="mobifarm-farm",
    title="MobiFarm: the farm",
    description="All phones, the queue and the controller.",
    variables={},
    rows={
        "Now": [
            _number("Phones connected", "sum(mobifarm_device_up) or vector(0)"),
            _number(
                "Phones away", "count(mobifarm_device_up == 0) or vector(0)", description="Less than 15 min."
            ),
            _number("Edits running", 'mobifarm_open_trials{state="leased"}'),
            _number("Edits waiting", 'mobifarm_open_trials{state="pending"}'),
            _number("Oldest waits for", "mobifarm_queue_oldest_seconds", "s"),
            _number("Machines with phones", "sum(mobifarm_host_up)"),
        ],
        "Phones": [
            Panel("Phones by state", [Query("state:mobifarm_device_state:count", "{{state}}")], stacked=True),
            Panel(
                "Temperature",
                [Query("mobifarm_device_body_temperature_celsius", "{{device}} ({{provenance}})")],
                "celsius",
                "Of the battery, or of the skin. " + MODELLED,
            ),
            Panel(
                "Power of each phone",
                [Query("device:mobifarm_device_power_watts:sum", "{{device}} ({{provenance}})")],
                "watt",
                MODELLED,
            ),
            Panel(
                "Power of the farm",
                [Query("provenance:mobifarm_device_power_watts:sum", "{{provenance}}")],
                "watt",
                MODELLED,
            ),
            Panel(
                "Battery",
                [Query("mobifarm_device_battery_ratio", "{{device}} ({{provenance}})")],
                "percentunit",
                MODELLED,
                maximum=1,
            ),
            Panel(
                "Clock of the fastest core",
                [Query("mobifarm_device_clock_hertz", "{{device}} ({{provenance}})")],
                "hertz",
                MODELLED,
            ),
            Panel("What the phones are", [Query("mobifarm_device_info")], rows=True),
        ],
        "Work": [
            Panel(
                "Edits that end, per minute",
                [
                    Query(
                        "sum by (outcome) (rate(mobifarm_trials_total[$__rate_interval])) * 60", "{{outcome}}"
                    )
                ],
            ),
            Panel(
                "Tries that end, per minute",
                [
                    Query(
                        "sum by (outcome) (rate(mobifarm_attempts_total[$__rate_interval])) * 60",
                        "{{outcome}}",
                    )
                ],
                description="Broken and expired are the farm's or a phone's fault; they are tried again.",
            ),
        ],
        "Controller": [
            Panel(
                "Event loop comes late by",
                [Query("mobifarm_controller_loop_lag_seconds", "worst of 15 s")],
                "s",
            ),
            Panel(
                "Memory of the controller",
                [Query('process_resident_memory_bytes{job="mobifarm"}', "{{instance}}")],
                "bytes",
            ),
            Panel(
                "Alerts",
                [Query('ALERTS{alertname=~"MobiFarm.*"}')],
                rows=True,
                description="Empty while nothing is wrong.",
            ),
        ],
    },
)

_ONE: Final = '{device="$device"}'

PHONE: Final = Board(
    uid="mobifarm-phone",
    title="MobiFarm: one phone",
    description="Rails, heat, clock and the edit of one phone.",
    variables={"device": "mobifarm_device_up"},
    rows={
        "Now": [
            _number("Connected", f"mobifarm_device_up{_ONE}"),
            _number("Edits given", f"mobifarm_device_leases_total{_ONE}"),
            _number("Battery", f"mobifarm_device_battery_ratio{_ONE}", "percentunit", MODELLED),
            _number("Charging", f"mobifarm_device_charging{_ONE}", description=MODELLED),
            _number(
                "Thermal status", f"mobifarm_device_thermal_status{_ONE}", description="0 none … 6 shutdown"
            ),
            _number(
                "Fell back to CPU",
                f"mobifarm_device_npu_fallback{_ONE}",
                description="1: it has an NPU that its newest result did not use. Nothing before a result.",
            ),
            Panel("What it is", [Query(f"mobifarm_device_info{_ONE}")], rows=True),
        ],
        "Power and heat": [
            Panel(
                "Rails",
                [Query(f"mobifarm_device_power_watts{_ONE}", "{{rail}} ({{provenance}})")],
                "watt",
                "Stacked: the top is what the phone uses. " + MODELLED,
                stacked=True,
            ),
            Panel(
                "Mean power by the energy counters",
                [
                    Query(
                        f"rate(mobifarm_device_energy_joules_total{_ONE}[$__rate_interval])",
                        "{{rail}} ({{provenance}})",
                    )
                ],
                "watt",
                "Smoother than the rails. The energy of an edit is in `mobifarm results`, not here. "
                + MODELLED,
            ),
            Panel(
                "Thermal zones",
                [Query(f"mobifarm_device_temperature_celsius{_ONE}", "{{zone}} ({{provenance}})")],
                "celsius",
                MODELLED,
            ),
            Panel(
                "Clock of the fastest core",
                [Query(f"mobifarm_device_clock_hertz{_ONE}", "{{provenance}}")],
                "hertz",
                MODELLED,
            ),
            Panel(
                "Into the battery",
                [Query(f"mobifarm_device_battery_power_watts{_ONE}", "{{provenance}}")],
                "watt",
                "While the phone charges this is not what it uses. " + MODELLED,
            ),
            Panel(
                "Body temperature",
                [Query(f"mobifarm_device_body_temperature_celsius{_ONE}", "{{provenance}}")],
                "celsius",
                "What gates look at. " + MODELLED,
            ),
        ],
        "The running edit": [
            Panel("Phase", [Query(f"mobifarm_device_edit_phase{_ONE}", "{{phase}}")], stacked=True),
            Panel(
                "Probability of the new target",
                [Query(f"mobifarm_device_edit_target_probability_ratio{_ONE}", "probability")],
                "percentunit",
                maximum=1,
            ),
            Panel("Step", [Query(f"mobifarm_device_edit_step{_ONE}", "step")]),
            Panel("State", [Query(f"mobifarm_device_state{_ONE}", "{{state}}")], stacked=True),
        ],
        "Memory": [
            Panel(
                "Memory",
                [
                    Query(f"mobifarm_device_agent_resident_memory_bytes{_ONE}", "agent"),
                    Query(f"mobifarm_device_memory_available_bytes{_ONE}", "available"),
                    Query(f"mobifarm_device_memory_bytes{_ONE}", "all"),
                ],
                "bytes",
            ),
            Panel(
                "Storage left",
                [Query(f"mobifarm_device_storage_available_bytes{_ONE}", "available")],
                "bytes",
            ),
        ],
    },
)

JOB: Final = Board(
    uid="mobifarm-job",
    title="MobiFarm: work in progress",
    description="The job that runs. Metrics carry no job's id: with several jobs at once this shows all of "
    "them; `mobifarm jobs` and the live page tell them apart.",
    variables={},
    rows={
        "Now": [
            _number("Running", 'mobifarm_open_trials{state="leased"}'),
            _number("Waiting", 'mobifarm_open_trials{state="pending"}'),
            _number("Jobs", "sum(mobifarm_jobs)"),
            _number("Stood still for", "mobifarm_job_standstill_seconds", "s"),
            _number(
                "Time to go",
                "sum(mobifarm_open_trials) / (sum(rate(mobifarm_trials_total[10m])) > 0)",
                "s",
                "At the pace of the last ten minutes; nothing while no edit ends.",
            ),
            _number("Phones at work", "sum(mobifarm_device_leased) or vector(0)"),
        ],
        "Progress": [
            Panel("Edits to do", [Query("mobifarm_open_trials", "{{state}}")], stacked=True),
            Panel("Edits ended, all jobs", [Query("mobifarm_trials_total", "{{outcome}}")], stacked=True),
            Panel(
                "Edits that end, per minute",
                [
                    Query(
                        "sum by (outcome) (rate(mobifarm_trials_total[$__rate_interval])) * 60", "{{outcome}}"
                    )
                ],
            ),
            Panel(
                "Tries by outcome, per minute",
                [
                    Query(
                        "sum by (outcome) (rate(mobifarm_attempts_total[$__rate_interval])) * 60",
                        "{{outcome}}",
                    )
                ],
            ),
        ],
        "Edits": [
            Panel(
                "Running edits: probability of the new target",
                [Query("mobifarm_device_edit_target_probability_ratio", "{{device}}")],
                "percentunit",
                maximum=1,
            ),
            Panel("Running edits: step", [Query("mobifarm_device_edit_step", "{{device}}")]),
            Panel(
                "Seconds of an edit, by phase",
                [
                    Query(
                        "method:mobifarm_edit_duration_seconds:mean10m",
                        "{{method}} {{phase}} ({{execution}})",
                    )
                ],
                "s",
                "Mean of the last ten minutes.",
            ),
            Panel(
                "Edits given to each phone, per minute",
                [Query("rate(mobifarm_device_leases_total[$__rate_interval]) * 60", "{{device}}")],
            ),
        ],
    },
)

_CHOSEN: Final = 'method=~"$method",execution=~"$execution"'
_BY: Final = "method, execution"


def _per_edit(counter: str) -> str:
    """The counter's increase over that of the edits that ran to their end."""
    edits = f'mobifarm_edits_total{{{_CHOSEN},status=~"converged|step_limit"}}[10m]'
    return f"sum by ({_BY}) (rate({counter}{{{_CHOSEN}}}[10m])) / (sum by ({_BY}) (rate({edits})) > 0)"


def _quality(measure: str) -> Panel:
    series = f'mobifarm_edit_quality_ratio_{{}}{{{{{_CHOSEN},measure="{measure}"}}}}[10m]'
    total, number = series.format("sum"), series.format("count")
    return Panel(
        measure.replace("_", " ").capitalize(),
        [
            Query(
                f"sum by ({_BY}) (rate({total})) / (sum by ({_BY}) (rate({number})) > 0)",
                "{{method}} ({{execution}})",
            )
        ],
        "percentunit",
        "Mean over edits of the last ten minutes that ran to their end; `mobifarm results` has intervals.",
        maximum=1,
    )


METHODS: Final = Board(
    uid="mobifarm-methods",
    title="MobiFarm: editors compared",
    description="Editing methods side by side over the last ten minutes. For watching; a claim needs a "
    "design and the intervals of `mobifarm results`. Times of execution 'virtual' and 'computer' are this "
    "computer's.",
    variables={"method": "mobifarm_edits_total", "execution": "mobifarm_edits_total"},
    several=True,
    rows={
        "Time": [
            Panel(
                "Seconds of an edit: mean",
                [
                    Query(
                        f'method:mobifarm_edit_duration_seconds:mean10m{{{_CHOSEN},phase="edit"}}',
                        "{{method}} ({{execution}})",
                    )
                ],
                "s",
            ),
            Panel(
                "Seconds of an edit: 95 % take less",
                [
                    Query(
                        f'method:mobifarm_edit_duration_seconds:p95_10m{{{_CHOSEN},phase="edit"}}',
                        "{{method}} ({{execution}})",
                    )
                ],
                "s",
                "Read off buckets: it is as fine as they are.",
            ),
        ],
        "Work": [
            Panel(
                "Loss evaluations per edit",
                [Query(_per_edit("mobifarm_edit_loss_evaluations_total"), "{{method}} ({{execution}})")],
            ),
            Panel(
                "Tokens × layers per edit",
                [Query(_per_edit("mobifarm_edit_token_layers_total"), "{{method}} ({{execution}})")],
            ),
            Panel(
                "Edits by status, per second",
                [
                    Query(
                        f"method:mobifarm_edits:rate5m{{{_CHOSEN}}}", "{{method}} ({{execution}}): {{status}}"
                    )
                ],
                stacked=True,
            ),
            Panel(
                "Noise floors",
                [Query("mobifarm_noise_floor_ratio", "{{measure}}")],
                "percentunit",
                "Of the newest job with a design: a smaller difference is none. Nothing before such a job.",
            ),
        ],
        "Quality": [
            _quality("edit_success"),
            _quality("paraphrase_success"),
            _quality("neighbourhood_success"),
        ],
    },
)

BOARDS: Final[Mapping[str, Board]] = {"farm": FARM, "phone": PHONE, "job": JOB, "methods": METHODS}


def write(folder: Path = FOLDER) -> None:
    """Write every board's JSON."""
    for name, board in BOARDS.items():
        (folder / f"{name}.json").write_text(board.to_json())


if __name__ == "__main__":
    write()
