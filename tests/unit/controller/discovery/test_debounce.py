"""What any storm of cables may do to the debouncer, and what it may not."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.discovery.debounce import Debouncer, News, NewsKind, settling_reason

WINDOW_S, LIMIT, SETTLE_S = 20.0, 3, 10.0


@dataclass
class Cable:
    """Moves cables at given times and lets due news be told in between, as the event loop does."""

    debouncer: Debouncer
    now: float = 0.0

    def advance(self, to: float) -> list[tuple[float, News]]:
        told = []
        while (due := self.debouncer.next_due()) is not None and due <= to:
            told += [(due, news) for news in self.debouncer.due(due)]
        told += [(to, news) for news in self.debouncer.due(to)]
        self.now = to
        return told

    def move(self, at: float, place: str, plugged: bool) -> list[tuple[float, News]]:
        told = self.advance(at)
        news = self.debouncer.arrive(place, at) if plugged else self.debouncer.depart(place, at)
        return told + ([(at, news)] if news else [])


Moves = list[tuple[float, str, bool]]
moves = st.lists(
    st.tuples(
        st.floats(0.0, 15.0, allow_nan=False).map(lambda pause: round(pause, 3)),
        st.sampled_from("abc"),
        st.booleans(),
    ),
    max_size=60,
).map(lambda items: accumulate(items))


def accumulate(items: list[tuple[float, str, bool]]) -> Moves:
    at, done = 0.0, []
    for pause, place, plugged in items:
        at += pause
        done.append((at, place, plugged))
    return done


def run(storm: Moves) -> tuple[Debouncer, list[tuple[float, News]]]:
    cable = Cable(Debouncer(window_s=WINDOW_S, arrivals_limit=LIMIT, settle_s=SETTLE_S))
    told = [news for move in storm for news in cable.move(*move)]
    return cable.debouncer, told


def of(told: list[tuple[float, News]], place: str) -> list[tuple[float, News]]:
    return [(at, news) for at, news in told if news.place == place]


def test_a_calm_phone_comes_and_goes_at_once() -> None:
    debouncer = Debouncer()
    assert debouncer.arrive("a", 1.0) == News(NewsKind.ARRIVED, "a", 1.0)
    assert debouncer.arrive("a", 2.0) is None
    assert debouncer.depart("a", 3.0) == News(NewsKind.DEPARTED, "a", 1.0)
    assert debouncer.depart("a", 4.0) is None
    assert debouncer.next_due() is None


def test_a_flapping_phone_settles_and_says_how_long() -> None:
    debouncer = Debouncer(window_s=WINDOW_S, arrivals_limit=2, settle_s=SETTLE_S)
    for at in (0.0, 2.0):
        debouncer.arrive("a", at)
        debouncer.depart("a", at + 1)
    assert debouncer.arrive("a", 4.0) == News(NewsKind.SETTLING, "a", 4.0, arrivals=3, until=14.0)
    assert debouncer.depart("a", 5.0) == News(NewsKind.SETTLING, "a", 4.0, arrivals=3, until=15.0)
    assert debouncer.arrive("a", 6.0) == News(NewsKind.SETTLING, "a", 6.0, arrivals=4, until=16.0)
    assert debouncer.due(15.9) == []
    assert debouncer.due(16.0) == [News(NewsKind.ARRIVED, "a", 6.0)]
    assert "left alone until it has stayed as it is for 10 s" in settling_reason()


def test_a_phone_that_settles_unplugged_is_gone() -> None:
    debouncer = Debouncer(window_s=WINDOW_S, arrivals_limit=1, settle_s=SETTLE_S)
    debouncer.arrive("a", 0.0)
    debouncer.depart("a", 1.0)
    debouncer.arrive("a", 2.0)
    debouncer.depart("a", 3.0)
    assert [news.kind for news in debouncer.due(13.0)] == [NewsKind.DEPARTED]


@given(moves)
def test_no_place_is_told_to_arrive_more_often_than_allowed(storm: Moves) -> None:
    _, told = run(storm)
    for place in "abc":
        arrivals = [at for at, news in of(told, place) if news.kind is NewsKind.ARRIVED]
        for start in arrivals:
            # At most the limit at once, and one each time that it was calm for long enough.
            inside = [at for at in arrivals if start <= at < start + WINDOW_S]
            assert len(inside) <= LIMIT + WINDOW_S / SETTLE_S


@given(moves)
def test_arrivals_and_departures_alternate(storm: Moves) -> None:
    _, told = run(storm)
    for place in "abc":
        here = False
        for _, news in of(told, place):
            if news.kind is NewsKind.ARRIVED:
                assert not here
                here = True
            elif news.kind is NewsKind.DEPARTED:
                here = False


@given(moves)
def test_whoever_stays_calm_is_told_as_it_is(storm: Moves) -> None:
    debouncer, told = run(storm)
    end = storm[-1][0] if storm else 0.0
    told += [(end + SETTLE_S, news) for news in debouncer.due(end + SETTLE_S)]
    assert debouncer.next_due() is None
    for place in "abc":
        plugged = False
        for _, moved, now_plugged in storm:
            plugged = now_plugged if moved == place else plugged
        last = [news.kind for _, news in of(told, place) if news.kind is not NewsKind.SETTLING][-1:]
        assert last == ([NewsKind.ARRIVED] if plugged else last and [NewsKind.DEPARTED])


@given(moves)
def test_places_know_nothing_of_each_other(storm: Moves) -> None:
    _, together = run(storm)
    for place in "abc":
        _, alone = run([move for move in storm if move[1] == place])
        # What is due is told when somebody asks: between moves that is at the same times, or later.
        assert [news for _, news in of(together, place)][: len(alone)] == [news for _, news in alone]


@given(moves)
def test_places_that_are_gone_are_forgotten(storm: Moves) -> None:
    debouncer, _ = run(storm)
    end = storm[-1][0] if storm else 0.0
    for place in "abc":
        debouncer.depart(place, end)
    debouncer.due(end + WINDOW_S + SETTLE_S)
    debouncer.due(end + 2 * (WINDOW_S + SETTLE_S))
    assert debouncer._places == {}
