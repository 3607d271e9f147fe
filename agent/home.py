"""The agent's folder on the phone: one agent at a time, its token, where it listens.

<home>/agent/lock          held with flock as long as the agent lives, holds its process id
<home>/agent/token         what a caller must show; new at every start
<home>/agent/ready.json    there exactly while the agent listens (a killed agent leaves it behind; the
                           next one removes it before it makes its token)
<home>/agent/fencing_token highest fencing token that was seen
<home>/agent/edits/        kept edits, one file per bundle
<home>/agent/journal/      finished results that nobody has acknowledged
<home>/agent/log           what went wrong, with tracebacks
<home>/bundles/<hash>/     pushed model bundles
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path

from mobifarm.agent.errors import AgentError
from mobifarm.agent.files import write_atomically


class HomeError(AgentError):
    """The agent cannot start in this folder; the message says what to do."""


class AgentHome:
    """The folder of one agent. Creating the object touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.agent = root / "agent"
        self.bundles = root / "bundles"
        self.edits = self.agent / "edits"
        self.journal = self.agent / "journal"
        self.fencing_token = self.agent / "fencing_token"
        self.log = self.agent / "log"
        self.temporary = self.agent / "temporary"
        self._token = self.agent / "token"
        self._ready = self.agent / "ready.json"
        self._lock = self.agent / "lock"
        self._lock_descriptor: int | None = None

    def take(self) -> None:
        """Create the folders and become the only agent here, until the process ends.

        Raises:
            HomeError: another agent runs here, or the folder cannot be written.
        """
        try:
            for folder in (self.agent, self.bundles, self.edits, self.journal):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeError(
                f"the agent's folder {self.agent} cannot be used ({error.strerror}): "
                "give a writable folder with --home"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise HomeError(
                f"an agent with process id {holder} already runs in {self.root}: "
                "stop it first or give another folder with --home"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._lock_descriptor = descriptor
        self._ready.unlink(missing_ok=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(mode=0o700, exist_ok=True)

    def make_token(self) -> str:
        """Write and return a new token (64 hexadecimal digits); older ones are void."""
        token = secrets.token_hex(32)
        write_atomically(self._token, token.encode("ascii"))
        return token

    def announce(
        self, *, address: str, agent_version: str, session_id: str, started_boottime_ns: int
    ) -> None:
        """Tell whoever can read the folder where the agent listens. Call it only once it does."""
        ready = {
            "pid": os.getpid(),
            "address": address,
            "agent_version": agent_version,
            "session_id": session_id,
            "started_boottime_ns": started_boottime_ns,
        }
        write_atomically(self._ready, json.dumps(ready).encode())

    def withdraw(self) -> None:
        """Take the announcement back."""
        self._ready.unlink(missing_ok=True)

    def release(self) -> None:
        """Let another agent start here."""
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None


def default_address(root: Path, serial: str) -> str:
    """An abstract socket that differs between phones even where they share a network namespace."""
    digest = hashlib.sha256(f"{root}\0{serial}".encode()).hexdigest()
    return f"unix-abstract:mobifarm-agent-{digest[:8]}"
