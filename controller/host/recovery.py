"""What to do next about a phone in trouble: a pure ladder of ever harder measures.

    reconnect → restart the agent → reset its USB device → reboot → quarantine

The ladder decides and the session carries out (:mod:`.phone`, :mod:`.mending`). It only climbs while trouble
lasts, tries each rung a bounded number of times, waits longer and longer in between, and starts again at the
bottom once the phone has been well for a while. A phone that is not there is in no trouble: nothing is done
to it, and nothing is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final


class Rung(IntEnum):
    """Measures, the mildest first."""

    RECONNECT = 0
    RESTART_AGENT = 1
    RESET_USB = 2
    REBOOT = 3
    QUARANTINE = 4

    @property
    def word(self) -> str:
        """As in the log: it outlives renamings."""
        return ("reconnect", "restart_agent", "reset_usb", "reboot", "quarantine")[self]


class Trouble(StrEnum):
    """What is wrong, as far as it decides what can help."""

    SILENT = "silent"  # the place is there, and no ADB answers
    SETUP = "setup"  # ADB answers, and the agent cannot be brought to work
    AGENT = "agent"  # the agent was at work and answers no more


# A phone whose ADB is silent can be asked neither to restart its agent nor to reboot.
_HELPS: Final[Mapping[Trouble, frozenset[Rung]]] = {
    Trouble.SILENT: frozenset({Rung.RECONNECT, Rung.RESET_USB, Rung.QUARANTINE}),
    Trouble.SETUP: frozenset(Rung),
    Trouble.AGENT: frozenset(Rung),
}


@dataclass(frozen=True, slots=True)
class LadderSettings:
    """``tries`` per rung. ``well_s``: how long a phone must be well before its trouble is forgotten.

    ``boot_s``: how long after a reboot trouble counts for nothing.
    """

    tries: Mapping[Rung, int] = field(
        default_factory=lambda: {
            Rung.RECONNECT: 3,
            Rung.RESTART_AGENT: 2,
            Rung.RESET_USB: 1,
            Rung.REBOOT: 1,
        }
    )
    back_off_first_s: float = 0.25
    back_off_limit_s: float = 30.0
    quarantined_limit_s: float = 300.0
    well_s: float = 60.0
    boot_s: float = 180.0


@dataclass(frozen=True, slots=True)
class Step:
    """Do ``rung``, its ``number``-th time in a row, after waiting ``wait_s`` seconds."""

    rung: Rung
    number: int
    wait_s: float


class Ladder:
    """The trouble of one phone.

    Args:
        allowed: what may be done to this phone; reconnecting and quarantine always may.
    """

    def __init__(self, allowed: frozenset[Rung], settings: LadderSettings | None = None) -> None:
        self._allowed = allowed | {Rung.RECONNECT, Rung.QUARANTINE}
        self._settings = settings or LadderSettings()
        self._rung = Rung.RECONNECT
        self._number = 0  # tries of this rung
        self._steps = 0  # since it was last well
        self._well_since: float | None = None
        self._booting_until = float("-inf")

    @property
    def at_its_end(self) -> bool:
        """Whether all that may be done was done."""
        return self._rung is Rung.QUARANTINE

    @property
    def in_trouble(self) -> bool:
        """Whether anything was done since the phone was last well for long enough."""
        return self._steps > 0

    def well(self, now: float) -> None:
        """The phone works, from now on until told otherwise."""
        if self._well_since is None:
            self._well_since = now

    def away(self, now: float) -> None:
        """The phone is not there: what it did before counts, what is done to it does not."""
        self._end_well(now)

    def trouble(self, kind: Trouble, now: float) -> Step:
        """The next step. From quarantine on, its agent is started again now and then, and nothing more."""
        self._end_well(now)
        self._steps += 1
        if now < self._booting_until:
            return Step(Rung.RECONNECT, 1, self._settings.back_off_limit_s / 3)
        if self._rung is Rung.QUARANTINE:
            self._number += 1
            mild = (
                Rung.RESTART_AGENT if Rung.RESTART_AGENT in self._allowed & _HELPS[kind] else Rung.RECONNECT
            )
            return Step(mild, self._number, self._wait_s(self._settings.quarantined_limit_s))
        while not self._can_try(kind):
            self._rung, self._number = Rung(self._rung + 1), 0
        self._number += 1
        if self._rung is Rung.REBOOT:
            self._booting_until = now + self._settings.boot_s
        return Step(self._rung, self._number, self._wait_s(self._settings.back_off_limit_s))

    def _can_try(self, kind: Trouble) -> bool:
        rung = self._rung
        may = rung in self._allowed and rung in _HELPS[kind]
        return rung is Rung.QUARANTINE or (may and self._number < self._settings.tries.get(rung, 0))

    def _wait_s(self, limit_s: float) -> float:
        return min(limit_s, self._settings.back_off_first_s * 2.0 ** min(self._steps - 1, 20))

    def _end_well(self, now: float) -> None:
        if self._well_since is not None and now - self._well_since >= self._settings.well_s:
            self._rung, self._number, self._steps = Rung.RECONNECT, 0, 0
            self._booting_until = float("-inf")
        self._well_since = None
