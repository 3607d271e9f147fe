"""``mobifarm replay LOG``: a recorded day once more, without phones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mobifarm.controller.cli.farm import positive_seconds
from mobifarm.controller.cli.output import console, print_json, table
from mobifarm.controller.core.check import check as check_state
from mobifarm.controller.core.day import Day, sum_up
from mobifarm.controller.core.due import LeaseSettings
from mobifarm.controller.core.durations import SOURCES
from mobifarm.controller.core.events import Event
from mobifarm.controller.core.policies import POLICIES, policy_named
from mobifarm.controller.core.rerun import decisions, rerun
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.step import replay as replay_events
from mobifarm.controller.core.views import DeviceView, attempt_view, device_view, job_view, trial_view
from mobifarm.controller.errors import Bug, UserError
from mobifarm.controller.paths import farm_paths
from mobifarm.controller.store.choose import open_reader
from mobifarm.controller.store.read import Reader, StoreReader
from mobifarm.workloads.plain_text import printable

DIFFERENCES_SHOWN = 10
ASSUMPTIONS = (
    "temperatures and other readings are as recorded, whatever other work would have done to the phones",
    "attempts that broke by the farm's fault in the log do not break in the simulation",
)


def replay(
    log: Annotated[Path, typer.Argument(help="A farm's folder, or its farm.sqlite.")],
    policy: Annotated[
        str | None,
        typer.Option(help="fifo, fair-share, shortest-queue or thermal; the recorded one if absent."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only check that the log leads exactly to the recorded state.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    lost_grace: Annotated[float, typer.Option(help="As of `mobifarm up`.", callback=positive_seconds)] = 20.0,
    attempt_limit: Annotated[
        float, typer.Option(help="As of `mobifarm up`.", callback=positive_seconds)
    ] = 900.0,
) -> None:
    """Re-run a recorded day under a policy, without phones, and compare it with what really happened."""
    if not log.exists():
        raise UserError(f"there is no {log}: name a farm's folder, or its farm.sqlite")
    with open_reader(farm_paths(log)) if log.is_dir() else StoreReader(log) as reader:
        events = [event for _, event in reader.events()]
        recorded = replay_events(events)
        if check:
            _check(reader, recorded, events, as_json)
            return
    if not recorded.jobs:
        raise UserError(f"{log} has no job: there is no day to re-run")
    name = policy or recorded.policy or "fifo"
    settings = LeaseSettings(lost_grace_s=lost_grace, attempt_limit_s=attempt_limit)
    simulated = rerun(events, policy_named(name), settings)
    happened = sum_up(recorded, recorded.policy or "not recorded")
    would = sum_up(simulated.state, name)
    if as_json:
        print_json(
            {
                "recorded": asdict(happened),
                "simulated": asdict(would),
                "durations": {source: simulated.durations.get(source, 0) for source in SOURCES},
                "assumptions": list(ASSUMPTIONS),
            }
        )
        return
    _print(happened, would, simulated.durations)


def _print(happened: Day, would: Day, durations: dict[str, int]) -> None:
    screen = console()
    screen.print(
        table(
            "The farm",
            ("", f"recorded ({happened.policy})", f"simulated ({would.policy}, estimate)"),
            [
                ("makespan, s", _number(happened.makespan_s), _number(would.makespan_s)),
                (
                    "mean waiting of a trial, s",
                    _number(happened.mean_waiting_s),
                    _number(would.mean_waiting_s),
                ),
                ("95th percentile of it, s", _number(happened.p95_waiting_s), _number(would.p95_waiting_s)),
                *(
                    (words, getattr(happened, name), getattr(would, name))
                    for words, name in (
                        ("leases", "leases"),
                        ("trials with a result", "with_result"),
                        ("abandoned", "abandoned"),
                        ("cancelled", "cancelled"),
                        ("unfinished", "unfinished"),
                    )
                ),
            ],
        )
    )
    screen.print(
        table(
            "Users",
            ("user", "trials", "share", "simulated", "mean waiting, s", "simulated"),
            [
                (
                    one.user,
                    one.trials,
                    f"{one.share:.0%}",
                    f"{other.share:.0%}",
                    _number(one.mean_waiting_s),
                    _number(other.mean_waiting_s),
                )
                for one, other in zip(happened.users, would.users, strict=True)
            ],
        )
    )
    screen.print(
        table(
            "Devices",
            ("device", "leases", "simulated", "busy, s", "simulated", "use", "simulated"),
            [
                (
                    one.device_id,
                    one.leases,
                    other.leases,
                    _number(one.busy_s),
                    _number(other.busy_s),
                    f"{one.use:.0%}",
                    f"{other.use:.0%}",
                )
                for one, other in zip(happened.devices, would.devices, strict=True)
            ],
        )
    )
    told = ", ".join(f"{durations[source]} {source}" for source in SOURCES if durations.get(source))
    typer.echo(
        f"Durations of the simulated leases: {told or 'none'}. Those that are not measured are estimates."
    )
    typer.echo(f"Assumed: {'; '.join(ASSUMPTIONS)}.")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _check(reader: Reader, state: FarmState, events: Sequence[Event], as_json: bool) -> None:
    """Compare the replayed state with the store's tables; exit code 1 where they differ."""
    differences = list(_differences(reader, state))
    try:
        check_state(state)
    except Bug as error:
        differences.append(str(error))
    same, rounds = decisions(events, policy_named(state.policy)) if state.policy in POLICIES else (0, 0)
    if as_json:
        answer: dict[str, Any] = {"events": len(events), "policy": state.policy, "differences": differences}
        print_json({**answer, "decisions": rounds, "decided_the_same": same})
    else:
        for difference in differences[:DIFFERENCES_SHOWN]:
            typer.echo(printable(f"differs: {difference}"))
        verdict = "does not lead" if differences else "leads exactly"
        typer.echo(f"the log of {len(events)} events {verdict} to the recorded state")
        if rounds:
            typer.echo(f"{state.policy}, asked again, decides {same} of {rounds} rounds as it did")
    if differences:
        raise typer.Exit(1)


def _differences(reader: Reader, state: FarmState) -> Iterator[str]:
    recorded: dict[tuple[str, str], object] = {
        ("device", device.device_id): device for device in reader.devices()
    }
    for job in reader.jobs():
        recorded["job", job.job_id] = job
        recorded |= {("trial", trial.trial_id): trial for trial in reader.trials(job.job_id)}
        recorded |= {("attempt", each.attempt_id): each for each in reader.attempts(job.job_id)}
    replayed: dict[tuple[str, str], object] = {
        **{("device", name): device_view(state, name) for name in state.devices},
        **{("job", name): job_view(state, name) for name in state.jobs},
        **{("trial", name): trial_view(state, name) for name in state.trials},
        **{("attempt", name): attempt_view(state, name) for name in state.attempts},
    }
    for key, view in recorded.items():
        known = replayed.get(key)
        if isinstance(view, DeviceView) and isinstance(known, DeviceView) and view.tags is None:
            recorded[key] = replace(view, tags=known.tags)
    for key in sorted(recorded.keys() | replayed.keys()):
        if recorded.get(key) != replayed.get(key):
            yield f"{' '.join(key)}: recorded {recorded.get(key)}, replayed {replayed.get(key)}"
