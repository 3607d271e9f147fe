"""The ladder: it climbs while trouble lasts, tries a bounded number of times, and does nothing unallowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.host.recovery import Ladder, LadderSettings, Rung, Step, Trouble

SETTINGS = LadderSettings()
EVERYTHING = frozenset(Rung)
troubles = st.sampled_from(Trouble)
allowances = st.frozensets(st.sampled_from(Rung))
gaps_s = st.floats(0.0, SETTINGS.well_s * 0.9)


def steps_of(ladder: Ladder, kinds: list[Trouble], now: float = 0.0, gap_s: float = 1.0) -> list[Step]:
    return [ladder.trouble(kind, now + gap_s * number) for number, kind in enumerate(kinds)]


def rungs_up_to_quarantine(ladder: Ladder, kind: Trouble) -> list[Rung]:
    """Every step until the quarantine; each one comes after the boot time, so that all of them count."""
    rungs: list[Rung] = []
    now = 0.0
    while Rung.QUARANTINE not in rungs:
        rungs.append(ladder.trouble(kind, now).rung)
        now += SETTINGS.boot_s
    return rungs


def test_all_rungs_are_taken_in_order() -> None:
    assert rungs_up_to_quarantine(Ladder(EVERYTHING), Trouble.SETUP) == [
        Rung.RECONNECT,
        Rung.RECONNECT,
        Rung.RECONNECT,
        Rung.RESTART_AGENT,
        Rung.RESTART_AGENT,
        Rung.RESET_USB,
        Rung.REBOOT,
        Rung.QUARANTINE,
    ]


def test_a_silent_phone_is_asked_for_nothing() -> None:
    assert rungs_up_to_quarantine(Ladder(EVERYTHING), Trouble.SILENT) == [
        Rung.RECONNECT,
        Rung.RECONNECT,
        Rung.RECONNECT,
        Rung.RESET_USB,
        Rung.QUARANTINE,
    ]


@given(allowances, st.lists(st.tuples(troubles, gaps_s, st.booleans()), max_size=40))
def test_while_trouble_lasts_rungs_only_climb_and_nothing_unallowed_is_done(
    allowed: frozenset[Rung], history: list[tuple[Trouble, float, bool]]
) -> None:
    """However short moments of being well or away fall in between."""
    ladder = Ladder(allowed)
    now, booting_until = 0.0, -1.0
    taken: list[Step] = []
    for kind, gap_s, well in history:
        now += gap_s
        step = ladder.trouble(kind, now)
        if now >= booting_until:
            taken.append(step)
        else:
            assert step.rung is Rung.RECONNECT
        if step.rung is Rung.REBOOT:
            booting_until = now + SETTINGS.boot_s
        (ladder.well if well else ladder.away)(now)
    rungs = [step.rung for step in taken]
    assert set(rungs) <= allowed | {Rung.RECONNECT, Rung.QUARANTINE}
    assert rungs.count(Rung.QUARANTINE) <= 1
    climbed = rungs[: rungs.index(Rung.QUARANTINE) + 1] if Rung.QUARANTINE in rungs else rungs
    assert climbed == sorted(climbed)
    assert set(rungs[len(climbed) :]) <= {Rung.RECONNECT, Rung.RESTART_AGENT} & (allowed | {Rung.RECONNECT})
    for rung, tries in SETTINGS.tries.items():
        assert climbed.count(rung) <= tries
    assert all(0 < step.wait_s <= SETTINGS.quarantined_limit_s for step in taken)
    assert [step.wait_s for step in taken] == sorted(step.wait_s for step in taken)


@given(allowances, st.lists(troubles, min_size=1, max_size=12), st.integers(0, 10**6))
def test_a_phone_that_was_well_for_long_enough_starts_at_the_bottom(
    allowed: frozenset[Rung], kinds: list[Trouble], since: int
) -> None:
    ladder = Ladder(allowed)
    steps_of(ladder, kinds, since)
    now = since + len(kinds)
    ladder.well(now)
    ladder.well(now + 1)  # the first moment counts
    assert ladder.in_trouble
    later = now + SETTINGS.well_s
    assert ladder.trouble(Trouble.AGENT, later) == Step(Rung.RECONNECT, 1, SETTINGS.back_off_first_s)


@given(allowances, troubles)
def test_lasting_trouble_always_ends_in_quarantine(allowed: frozenset[Rung], kind: Trouble) -> None:
    rungs = rungs_up_to_quarantine(Ladder(allowed), kind)
    assert len(rungs) <= sum(SETTINGS.tries.values()) + 1


def test_a_quarantined_phone_is_tried_for_ever_at_long_intervals() -> None:
    ladder = Ladder(frozenset())
    steps = steps_of(ladder, [Trouble.SETUP] * 30)
    assert steps[3].rung is Rung.QUARANTINE
    assert {step.rung for step in steps[4:]} == {Rung.RECONNECT}
    assert steps[-1].wait_s == SETTINGS.quarantined_limit_s


def test_a_phone_that_boots_has_time_to_do_so() -> None:
    ladder = Ladder(frozenset({Rung.REBOOT}))
    steps = steps_of(ladder, [Trouble.SETUP] * 4)
    assert steps[-1].rung is Rung.REBOOT
    ladder.away(4)
    assert ladder.trouble(Trouble.SILENT, 20).rung is Rung.RECONNECT
    assert ladder.trouble(Trouble.SILENT, 3 + SETTINGS.boot_s).rung is Rung.QUARANTINE
