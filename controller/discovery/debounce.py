"""Cables that go in and out again and again are left alone until they are calm. Pure: time is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

WINDOW_S: Final = 20.0
ARRIVALS_LIMIT: Final = 3  # setting a phone up, a change of its USB mode and a reset are fewer
SETTLE_S: Final = 10.0


class NewsKind(StrEnum):
    ARRIVED = "arrived"
    DEPARTED = "departed"
    SETTLING = "settling"  # it goes in and out: wait until it is calm


@dataclass(frozen=True, slots=True)
class News:
    """What to do about a place. ``seen_at`` is when the phone was last plugged in.

    While a place settles it is news again with every movement: ``arrivals`` within the window, and ``until``
    when it has to stay as it is; both are 0 otherwise. Times are those of the caller's clock, in seconds.
    """

    kind: NewsKind
    place: str
    seen_at: float
    arrivals: int = 0
    until: float = 0.0


@dataclass(slots=True)
class _Place:
    plugged: bool = False
    arrivals: deque[float] = field(default_factory=deque)
    settling_until: float | None = None

    @property
    def seen_at(self) -> float:
        return self.arrivals[-1] if self.arrivals else 0.0


class Debouncer:
    """Passes arrivals and departures on, at once while a place is calm.

    The arrival after ``arrivals_limit`` others within ``window_s`` makes a place settle: nothing is passed on
    until it has stayed as it is for ``settle_s``. Places know nothing of each other.
    """

    def __init__(
        self,
        *,
        window_s: float = WINDOW_S,
        arrivals_limit: int = ARRIVALS_LIMIT,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._window_s = window_s
        self._arrivals_limit = arrivals_limit
        self._settle_s = settle_s
        self._places: dict[str, _Place] = {}

    def arrive(self, place: str, now: float) -> News | None:
        """A phone was plugged in; None where it was known to be."""
        record = self._places.setdefault(place, _Place())
        if record.plugged:
            return None
        record.plugged = True
        while record.arrivals and record.arrivals[0] <= now - self._window_s:
            record.arrivals.popleft()
        record.arrivals.append(now)
        if record.settling_until is not None or len(record.arrivals) > self._arrivals_limit:
            return self._settle(place, record, now)
        return News(NewsKind.ARRIVED, place, now)

    def depart(self, place: str, now: float) -> News | None:
        """A phone was unplugged; None where none was known."""
        record = self._places.get(place)
        if record is None or not record.plugged:
            return None
        record.plugged = False
        if record.settling_until is not None:
            return self._settle(place, record, now)
        return News(NewsKind.DEPARTED, place, record.seen_at)

    def due(self, now: float) -> list[News]:
        """Places that have settled: they are now as they are."""
        settled = self._places_where(
            lambda record: record.settling_until is not None and record.settling_until <= now
        )
        news = []
        for place, record in settled:
            record.settling_until = None
            kind = NewsKind.ARRIVED if record.plugged else NewsKind.DEPARTED
            news.append(News(kind, place, record.seen_at))
        for place, _ in self._places_where(lambda record: self._forgettable(record, now)):
            del self._places[place]
        return news

    def next_due(self) -> float | None:
        """When :meth:`due` has news next, if nothing moves."""
        return min(
            (record.settling_until for record in self._places.values() if record.settling_until is not None),
            default=None,
        )

    def _settle(self, place: str, record: _Place, now: float) -> News:
        record.settling_until = now + self._settle_s
        return News(NewsKind.SETTLING, place, record.seen_at, len(record.arrivals), record.settling_until)

    def _forgettable(self, record: _Place, now: float) -> bool:
        calm = record.settling_until is None and record.seen_at <= now - self._window_s
        return calm and not record.plugged

    def _places_where(self, condition: Callable[[_Place], bool]) -> list[tuple[str, _Place]]:
        return [(place, record) for place, record in self._places.items() if condition(record)]


def settling_reason(
    arrivals_limit: int = ARRIVALS_LIMIT, window_s: float = WINDOW_S, settle_s: float = SETTLE_S
) -> str:
    """Why a settling place is left alone, for people: the same for a whole storm, so that it is one event."""
    return (
        f"it was plugged in more than {arrivals_limit} times within {window_s:g} s: it is left alone until "
        f"it has stayed as it is for {settle_s:g} s"
    )


SETTLING_ACTION: Final = "check the cable and the port"
