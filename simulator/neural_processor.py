"""The neural processor of a virtual Snapdragon phone: Qualcomm's emulator of it, in a process of its own.

The process is the worker that the agent looks for in its folder; it ends with the phone and with the
launcher. It is some thousand times slower than the chip.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

# Of the agent's package, as a program: no import crosses the wall.
WORKER: Final = "mobifarm.agent.backends.serve"
# Below the phone's /data, where the agent has its folder.
SOCKET: Final = "local/tmp/mobifarm/npu/worker.sock"
_MAKERS: Final = ("qti", "qualcomm")
_START_TIMEOUT_S: Final = 50.0
_STOP_TIMEOUT_S: Final = 10.0


class NeuralProcessorError(Exception):
    """It does not start; the message says why."""


def snapdragon(properties: Mapping[str, str]) -> str:
    """``ro.soc.model`` of a phone with a Snapdragon; "" for all others."""
    made_by = properties.get("ro.soc.manufacturer", "").lower()
    return properties.get("ro.soc.model", "") if made_by in _MAKERS else ""


class NeuralProcessor:
    """One phone's.

    Args:
        soc_model: ``ro.soc.model``, such as SM8650.
        data: the phone's ``/data`` on the host.
        log: file of the host that takes what the worker writes to stderr.
        processors: of the computer that it may use.
    """

    def __init__(self, soc_model: str, data: Path, log: Path, processors: frozenset[int]) -> None:
        self._soc_model = soc_model
        self._socket = data / SOCKET
        self._log = log
        self._processors = processors
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of its process; 0 where none lives."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    async def start(self) -> None:
        """Start it anew; returns when it listens. Raises :class:`NeuralProcessorError`."""
        await self.stop()
        self._socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._open_log() as errors:
            begin = errors.tell()
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", WORKER, "--until-stdin-closes"),
                *("--socket", str(self._socket), "--soc", self._soc_model),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=partial(os.sched_setaffinity, 0, self._processors),
            )
        assert process.stdout is not None
        said = b""
        with contextlib.suppress(TimeoutError):
            # It says one line when it listens; where it cannot, it ends.
            said = await asyncio.wait_for(process.stdout.readline(), _START_TIMEOUT_S)
        if not said:
            await self.stop()
            words = self._log.read_bytes()[begin:].decode(errors="replace").strip()[-500:]
            raise NeuralProcessorError(words or f"it did not listen within {_START_TIMEOUT_S:g} s")

    def _open_log(self) -> BinaryIO:
        return open(self._log, "ab")

    async def stop(self) -> None:
        """End it; harmless where it does not run."""
        process, self._process = self._process, None
        self._socket.unlink(missing_ok=True)
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
