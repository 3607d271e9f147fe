"""Where the farm keeps its state on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mobifarm.controller.errors import UserError


@dataclass(frozen=True, slots=True)
class FarmPaths:
    """Files of one farm, all below ``home`` (mode 0700)."""

    home: Path

    @property
    def database(self) -> Path:
        return self.home / "farm.sqlite"

    @property
    def store_url(self) -> Path:
        """Names the PostgreSQL database (0600: with its password) of a farm that has its store there."""
        return self.home / "store-url"

    @property
    def adb_key(self) -> Path:
        return self.home / "adbkey"

    @property
    def api_token(self) -> Path:
        return self.home / "api-token"

    @property
    def join_token(self) -> Path:
        """What other machines need to become hosts; the same over restarts, so that they come back."""
        return self.home / "join-token"

    @property
    def tokens(self) -> Path:
        """Hashes of the tokens that people were given, see :mod:`mobifarm.controller.api.access`."""
        return self.home / "tokens.json"

    @property
    def running(self) -> Path:
        """Describes the running farm (address, process, scratch folder); absent when none runs."""
        return self.home / "running.json"

    @property
    def computer(self) -> Path:
        """Folder of the agent on this computer, which runs the baselines."""
        return self.home / "computer"

    @property
    def announcements(self) -> Path:
        """Folder in which phones on TCP are announced; virtual phones live there."""
        return self.home / "virtual"

    @property
    def telemetry(self) -> Path:
        """Folder of the raw samples: JOB/ATTEMPT.parquet."""
        return self.home / "telemetry"

    @property
    def log(self) -> Path:
        return self.home / "farm.log"


def farm_paths(home: Path | None = None) -> FarmPaths:
    """The farm's files below ``home``, $MOBIFARM_HOME or ~/.local/state/mobifarm, whichever is given first.

    Raises:
        UserError: the folder cannot be made.
    """
    chosen = home or Path(os.environ.get("MOBIFARM_HOME") or "~/.local/state/mobifarm").expanduser()
    try:
        chosen.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(
            f"the farm's folder {chosen} cannot be used ({error.strerror}); set MOBIFARM_HOME to one that can"
        ) from None
    return FarmPaths(chosen.resolve())
