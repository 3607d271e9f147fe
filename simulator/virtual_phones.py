"""Virtual phones for tests and the demo: start them, use them, stop them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from mobifarm.simulator.control import PhoneControl, PhoneRecord
from mobifarm.simulator.phone import Authorisation, PhoneError

_STOP_TIMEOUT_S = 30.0


class VirtualPhones:
    """Runs a launcher process; ``phones`` are connectable inside the ``with`` block.

    ``home`` None is a temporary folder, removed at the end. The launcher ends with this process in any case.
    ``wrapper`` is put before its command, e.g. to run it in another network namespace.
    """

    def __init__(
        self,
        count: int = 1,
        profiles: Sequence[str] = (),
        *,
        home: Path | None = None,
        port: int = 0,
        unsandboxed: bool = False,
        authorisation: Authorisation = "accept",
        serial: str = "",
        usb: bool = False,
        abi: str = "",
        npu: bool = False,
        wrapper: Sequence[str] = (),
    ) -> None:
        self._temporary = None if home else tempfile.TemporaryDirectory(prefix="mobifarm-virtual-")
        self.home = home or Path(self._temporary.name if self._temporary else "")
        self.phones: list[PhoneRecord] = []
        self._count = count
        self._process: subprocess.Popen[str] | None = None
        self._command = [
            *wrapper,
            sys.executable,
            "-m",
            "mobifarm.simulator.cli",
            "run",
            "--json",
            "--until-stdin-closes",
        ]
        self._command += ["--count", str(count), "--port", str(port), "--home", str(self.home)]
        self._command += ["--authorisation", authorisation]
        if serial:
            self._command += ["--serial", serial]
        if abi:
            self._command += ["--abi", abi]
        if usb:
            self._command.append("--usb")
        if npu:
            self._command.append("--npu")
        for profile in profiles:
            self._command += ["--profile", profile]
        if unsandboxed:
            self._command.append("--unsandboxed")

    def __enter__(self) -> VirtualPhones:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        log = self.home / "launcher.log"
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        if self._process.stdout is None:
            raise PhoneError("the launcher has no output")
        # The launcher bounds its own start; its output ends where it fails.
        for line in self._process.stdout:
            self.phones.append(PhoneRecord.from_json(line))
            if len(self.phones) == self._count:
                return
        raise PhoneError(f"virtual phones did not start: {log.read_text(errors='replace').strip()}")

    def control(self, phone: PhoneRecord | int = 0) -> PhoneControl:
        """The switches of a phone, given by its record or its index."""
        record = self.phones[phone] if isinstance(phone, int) else phone
        return PhoneControl(record.control)

    def stop(self) -> None:
        """Stop all phones; again is harmless."""
        process, self._process = self._process, None
        if process is not None:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
