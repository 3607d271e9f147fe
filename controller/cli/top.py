"""``mobifarm top``: the live page in a terminal."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from mobifarm.controller.cli.farm import Home
from mobifarm.controller.cli.output import ago, console, notice_lines, print_json, table
from mobifarm.controller.client import FarmClient
from mobifarm.controller.errors import HostError
from mobifarm.controller.paths import farm_paths

RETRY_S = 1.0
SILENCE_S = 5.0  # the stream has news twice a second
JOBS = 10


def top(
    home: Home = None,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one picture as JSON and leave.")] = False,
) -> None:
    """Watch phones, edits, power, heat and jobs in the terminal until Ctrl-C, as on the live page."""
    with FarmClient(farm_paths(home)) as client:
        picture = client.get("/api/v1/live/snapshot")
        if as_json:
            print_json(picture)
            return
        if once:
            console().print(render(picture))
            return
        screen = console()
        # Refreshed without news too: the age of a picture that stands still does not.
        live = Live(render(picture), console=screen, refresh_per_second=1, screen=screen.is_terminal)
        with contextlib.suppress(KeyboardInterrupt), live as shown:
            for news in follow(client, picture):
                shown.update(news, refresh=True)


def follow(client: FarmClient, picture: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Each tick of the farm's stream as tables, and the last one with its age where the farm is silent.

    A connection that breaks or hangs is made again for as long as there is a farm.
    """
    heard_at = time.monotonic()
    while True:
        with contextlib.suppress(HostError):
            for line in client.lines("/api/v1/live/stream", silence_s=SILENCE_S):
                if line.startswith("data: "):
                    picture, heard_at = json.loads(line.removeprefix("data: ")), time.monotonic()
                    yield render(picture)
        yield Group(Silence(heard_at), render(picture))  # above: what is below the screen's edge is not seen
        time.sleep(RETRY_S)  # where the farm has ended, the next try says so


@dataclass(frozen=True, slots=True)
class Silence:
    """A line that says how old the picture is whenever it is drawn, from its monotonic time."""

    heard_at: float

    def __rich__(self) -> Text:
        age_s = time.monotonic() - self.heard_at
        return Text(f"the farm does not answer: this is how it was {age_s:.0f} s ago", style="bold red")


def render(picture: Mapping[str, Any]) -> RenderableType:
    """A snapshot or a tick as tables for a terminal."""
    phones, jobs = rows(picture["devices"]), rows(picture["jobs"])
    parts: list[RenderableType] = [
        table(
            f"Phones ({len(phones)})",
            ("phone", "state", "since", "heat", "power", "clock", "charge", "what it does or needs"),
            [
                (
                    phone["model"] or phone["serial"] or phone["device_id"],
                    phone["state"],
                    ago(phone["changed_at"]),
                    _unit(phone["temperature_celsius"], "{:.1f} °C"),
                    power_words(phone),
                    _unit(phone["clock_hertz"], "{:.2f} GHz", 1e-9),
                    _unit(phone["battery"], "{:.0f} %", 100),
                    doing(phone) or "–",
                )
                for phone in phones
            ],
            sentences=["what it does or needs"],
            spare=["clock", "charge"],
            last=["since", "heat", "power"],
        )
    ]
    if any(phone["modelled"] and phone["power_watts"] is not None for phone in phones):
        parts.append(Text("* modelled: a virtual phone has no power meter", style="dim"))
    if jobs:
        parts.append(
            table(
                "Jobs",
                ("job", "name", "user", "state", "edits", "time left"),
                [
                    (
                        job["job_id"],
                        job["name"],
                        job["user"],
                        job["state"],
                        f"{job['trials'] - job['pending'] - job['leased']} of {job['trials']}",
                        _time_left(job),
                    )
                    for job in jobs[:JOBS]
                ],
                sentences=["name"],
                spare=["user"],
            )
        )
    return Group(*parts, *notice_lines(picture["notices"], len(picture["hosts"])))


def rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A table's columns as one mapping per row."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def power_words(phone: Mapping[str, Any]) -> str:
    """Watts, starred where a model made them; why there are none where a person may wonder."""
    if phone["power_watts"] is None:
        return "charging" if phone["charging"] else "–"
    return f"{phone['power_watts']:.2f} W{'*' if phone['modelled'] else ''}"


def doing(phone: Mapping[str, Any]) -> str:
    """The edit and how far it is, or why there is none and what to do."""
    if phone["transfer"]:
        return f"receiving {phone['transfer']}: {100 * phone['transfer_share']:.0f} %"
    if phone["label"] and phone["state"] == "leased":
        phase = (phone["phase"] or "starting").replace("_", " ")
        step = f", step {phone['step']}" if phone["step"] else ""
        target = phone["target_probability"]
        return f"{phone['label']}: {phase}{step}" + ("" if target is None else f", p(target) {target:.2f}")
    waiting = f"its edit {phone['label']} waits for it" if phone["label"] else ""
    return "; ".join(filter(None, (phone["reason"], waiting, phone["action"])))


def _time_left(job: Mapping[str, Any]) -> str:
    if job["finished_at"] is not None:
        return f"ended {ago(job['finished_at'])}"
    left_s = job["remaining_s"]
    if left_s is None:
        return str(job["remaining_words"])
    return f"about {left_s:.0f} s" if left_s < 120 else f"about {left_s / 60:.0f} min"


def _unit(value: float | None, shape: str, factor: float = 1.0) -> str:
    return "–" if value is None else shape.format(value * factor)
