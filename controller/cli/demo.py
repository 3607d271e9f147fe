"""``mobifarm demo``: the whole product on three virtual phones, as a user would start it by hand.

Everything runs as the user's own commands would: ``mobifarm models build``, ``mobifarm simulate run``,
``mobifarm up``, ``mobifarm run``. In the middle of an edit one phone's cable is pulled, and plugged in again
once another phone has taken the edit over. At the end all that was started is stopped; the results stay.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.text import Text

from mobifarm.controller.cli.jobs import follow, require_carried_out, submit
from mobifarm.controller.cli.output import progress_console
from mobifarm.controller.cli.page import new_page_address
from mobifarm.controller.cli.results import Attempts, ResultFormat, print_results
from mobifarm.controller.client import FarmClient
from mobifarm.controller.errors import FarmError, HostError, UserError
from mobifarm.controller.paths import FarmPaths, farm_paths
from mobifarm.controller.store.choose import open_reader
from mobifarm.controller.store.read import Reader

MARKER = ".mobifarm-demo"  # only a folder with this file is ever emptied
MODEL = "smollm2-135m-instruct"
PROFILES = ("pixel-8", "galaxy-s24", "oneplus-12")
LOST_GRACE_S = 4.0
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 20.0
POLL_PERIOD_S = 0.1
UNPLUG_AFTER_EDITS = 4  # so that every phone has been seen working before one is pulled


def demo(
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", help="Folder of the demo's own farm, emptied first; …/mobifarm/demo by default."
        ),
    ] = None,
    unplug: Annotated[bool, typer.Option(help="Pull a cable in the middle of an edit.")] = True,
    unsandboxed: Annotated[bool, typer.Option(help="Run the virtual phones without bubblewrap.")] = False,
) -> None:
    """Run a real evaluation on three virtual phones and pull a cable on the way."""
    from importlib.resources import files

    started = time.monotonic()
    folder = home or farm_paths().home / "demo"
    paths = _empty_farm(folder)
    spec = Path(str(files("mobifarm.workloads"))) / "examples" / "personal-facts.yaml"

    _say("1/4  model bundle")
    _mobifarm("models", "build", MODEL)
    # The farm stops before its phones, so that the last it knows of them is that they were there.
    with contextlib.ExitStack() as powered, contextlib.ExitStack() as running:
        _say("2/4  the farm (Ray, controller, one host)")
        running.enter_context(_farm(paths))
        with FarmClient(paths) as client:
            _say(f"     watch it live at {new_page_address(client)}")
        _say("3/4  three virtual phones, which the farm finds by itself")
        phones = powered.enter_context(_virtual_phones(folder / "virtual", unsandboxed))
        _say("4/4  the evaluation" + (", with a cable pulled in the middle of an edit" if unplug else ""))
        job_id, trials = submit(paths, spec)
        _say(f"     {job_id}: {trials} edits; watch with: MOBIFARM_HOME={folder} mobifarm devices --watch")
        ended = threading.Event()
        hand = threading.Thread(
            target=_pull_a_cable, args=(paths, folder / "virtual", dict(phones), job_id, ended)
        )
        if unplug:
            hand.start()
        try:
            job = follow(paths, job_id)
        finally:
            ended.set()
            if unplug:
                hand.join()
    print_results(paths, job_id, ResultFormat.TABLE, Attempts.RETRIED)
    _say(f"stopped everything after {time.monotonic() - started:.0f} s. More of it:")
    _say(f"     export MOBIFARM_HOME={folder}")
    _say(f"     mobifarm results {job_id} --attempts all    # which attempt ran where; also --json, --csv")
    require_carried_out(job)


def _empty_farm(folder: Path) -> FarmPaths:
    """The folder of this demo's farm, without what an earlier demo left in it.

    Raises:
        UserError: the folder holds something else than an earlier demo.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise UserError(f"{folder} holds something else than an earlier demo: choose another with --home")
        shutil.rmtree(folder)
    paths = farm_paths(folder)
    (folder / MARKER).touch()
    return paths


def _say(text: str) -> None:
    progress_console.print(Text(text, style="" if text.startswith(" ") else "bold"))


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mobifarm.controller.cli", *arguments]


def _mobifarm(*arguments: str) -> None:
    done = subprocess.run(_command(*arguments), check=False)
    if done.returncode:
        raise HostError(f"`mobifarm {' '.join(arguments)}` failed; its message is above")


@contextlib.contextmanager
def _running(arguments: Sequence[str], log: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """A command in the background with its first lines readable; stopped with SIGTERM, then SIGKILL."""
    process = subprocess.Popen(
        _command(*arguments), stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def _virtual_phones(folder: Path, unsandboxed: bool) -> Iterator[list[tuple[str, str]]]:
    """Names and addresses of three running virtual phones."""
    folder.mkdir(parents=True, mode=0o700)
    arguments = ["simulate", "run", "--json", "--count", str(len(PROFILES)), "--home", str(folder)]
    for profile in PROFILES:
        arguments += ["--profile", profile]
    if unsandboxed:
        arguments.append("--unsandboxed")
    log = folder / "simulate.log"
    with log.open("wb") as output, _running(arguments, output) as process:
        found: list[tuple[str, str]] = []
        while len(found) < len(PROFILES):
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise HostError(f"the virtual phones did not start:\n{log.read_text()[-2000:]}")
            record = json.loads(line)
            found.append((record["name"], record["address"]))
            _say(f"     {record['name']}  serial {record['serial']}  {record['address']}")
        for warning in log.read_text().splitlines():
            _say(f"     {warning}")
        yield found


@contextlib.contextmanager
def _farm(paths: FarmPaths) -> Iterator[None]:
    arguments = ["up", "--home", str(paths.home), "--lost-grace", str(LOST_GRACE_S), "--no-usb"]
    log = paths.home / "up.log"
    with log.open("wb") as output, _running(arguments, output) as process:
        lines = process.stdout
        assert lines is not None
        if not lines.readline().startswith("ready"):
            raise HostError(f"the farm did not start:\n{log.read_text()[-2000:]}")
        yield


def _pull_a_cable(
    paths: FarmPaths, virtual: Path, phones: dict[str, str], job_id: str, ended: threading.Event
) -> None:
    """Unplug the phone that is in the middle of an edit; plug it in once its edit runs elsewhere."""
    try:
        with open_reader(paths) as reader, FarmClient(paths) as client:
            while not ended.wait(POLL_PERIOD_S):
                if reader.job(job_id).ended < UNPLUG_AFTER_EDITS:
                    continue
                for name, address in phones.items():
                    progress = (client.get("/api/v1/live")["devices"].get(address) or {}).get("progress")
                    if progress and progress["phase"] == "optimising":
                        _unplug_until_retried(reader, virtual, name, job_id, progress["attempt_id"], ended)
                        return
    except FarmError as error:
        if not ended.is_set():
            _say(f"     could not pull a cable: {error}")


def _unplug_until_retried(
    reader: Reader, virtual: Path, name: str, job_id: str, attempt_id: str, ended: threading.Event
) -> None:
    _say(f"     pulling the cable of {name} in the middle of {attempt_id}")
    _control(virtual, name, "unplug")
    try:
        while not ended.wait(POLL_PERIOD_S):
            attempts = reader.attempts(job_id)
            pulled = next(attempt for attempt in attempts if attempt.attempt_id == attempt_id)
            others = [a for a in attempts if a.trial_id == pulled.trial_id and a.attempt_id != attempt_id]
            if others:
                _say(f"     {pulled.label}: taken over by {others[-1].serial} as {others[-1].attempt_id}")
                return
    finally:
        _control(virtual, name, "plug")
        _say(f"     plugged {name} in again")


def _control(virtual: Path, name: str, action: str) -> None:
    done = subprocess.run(
        _command("simulate", "ctl", name, action, "--home", str(virtual)),
        check=False,
        capture_output=True,
        text=True,
        timeout=START_DEADLINE_S,
        env=os.environ,
    )
    if done.returncode:
        raise HostError(f"the virtual phone {name} could not be told to {action}: {done.stderr.strip()}")
