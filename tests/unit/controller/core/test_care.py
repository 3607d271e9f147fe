"""Quarantines, the health checks that end them, draining, and what is shown of a recovery."""

import pytest

from mobifarm.controller.core.care import CHECK_LIMIT_S
from mobifarm.controller.core.commands import CheckHealth, Dispatch
from mobifarm.controller.core.due import LeaseSettings, due, next_due
from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    DeviceDrained,
    DeviceQuarantined,
    DeviceReleased,
    DeviceState,
    DeviceUndrained,
    HealthChecked,
    HealthCheckStarted,
    RecoveryStep,
)
from mobifarm.controller.core.policies.fifo import FifoPolicy
from mobifarm.controller.core.state import TrialState
from mobifarm.controller.core.transitions import CHECK_BACK_OFF_FIRST_S, CHECK_BACK_OFF_LIMIT_S
from mobifarm.controller.core.views import device_view
from mobifarm.controller.errors import Bug

LEASES = LeaseSettings()


def quarantine(farm, place="p1", **fields):
    farm.apply(DeviceQuarantined(farm.now, place, "its agent does not start", "look at it", **fields))


def start_check(farm):
    """Go to the moment at which the next check is due and begin it."""
    farm.now = next_due(farm.state, farm.now, LEASES)
    (event,) = due(farm.state, farm.now, LEASES)
    assert isinstance(event, HealthCheckStarted)
    (command,) = farm.apply(event)
    assert isinstance(command, CheckHealth)
    return command


def end_check(farm, command, passed, reason="an edit on tiny went well"):
    farm.apply(HealthChecked(farm.now, "p1", command.check_id, passed, reason))


def test_a_quarantined_phone_is_released_when_it_passes_a_check(farm):
    farm.ready("p1", token=6)
    quarantine(farm)
    assert farm.device().state is DeviceState.QUARANTINED
    since = farm.now
    command = start_check(farm)
    assert farm.now == since + CHECK_BACK_OFF_FIRST_S
    assert command.fencing_token == 6, "what the phone has seen, so that it accepts the check"
    assert not farm.device().free
    assert "health check runs" in device_view(farm.state, "p1").reason
    end_check(farm, command, True)
    assert farm.device().free


def test_each_failed_check_doubles_the_next_back_off_up_to_a_bound(farm):
    farm.ready("p1")
    quarantine(farm)
    waited = []
    for number in range(12):
        before = farm.now
        command = start_check(farm)
        waited.append(farm.now - before)
        end_check(farm, command, False, f"no space {number}")
    assert waited[:3] == [CHECK_BACK_OFF_FIRST_S * factor for factor in (1, 2, 4)]
    assert waited == sorted(waited)
    assert waited[-1] == CHECK_BACK_OFF_LIMIT_S
    reason = farm.device().quarantine.reason
    assert reason == "its agent does not start; its health check failed: no space 11"


def test_a_phone_that_soon_fails_again_waits_longer_and_a_result_clears_its_name(farm):
    farm.ready("p1")
    farm.submit(trials=1, attempt_limit=9)
    quarantine(farm)
    end_check(farm, start_check(farm), True)
    quarantine(farm)
    assert farm.device().quarantine.next_check_at == farm.now + 2 * CHECK_BACK_OFF_FIRST_S
    end_check(farm, start_check(farm), True)
    farm.lease()
    farm.finished()
    quarantine(farm)
    assert farm.device().quarantine.next_check_at == farm.now + CHECK_BACK_OFF_FIRST_S


def test_a_quarantine_by_a_person_is_ended_by_a_person_alone(farm):
    farm.ready("p1")
    quarantine(farm)
    quarantine(farm, by_person=True)
    farm.now += 1e6
    assert due(farm.state, farm.now, LEASES) == ()
    assert next_due(farm.state, farm.now, LEASES) is None
    quarantine(farm)  # the farm does not soften it
    assert due(farm.state, farm.now, LEASES) == ()
    farm.apply(DeviceReleased(farm.now, "p1"))
    assert farm.device().free


def test_a_check_that_a_person_overtook_changes_nothing(farm):
    farm.ready("p1")
    quarantine(farm)
    command = start_check(farm)
    farm.apply(DeviceReleased(farm.now, "p1"))
    assert not farm.device().free, "the check runs still"
    end_check(farm, command, False)
    assert farm.device().free
    quarantine(farm)
    command = start_check(farm)
    quarantine(farm, by_person=True)
    end_check(farm, command, True)
    assert farm.device().state is DeviceState.QUARANTINED


def test_a_check_ends_with_its_link_and_is_made_again(farm):
    farm.ready("p1")
    quarantine(farm)
    command = start_check(farm)
    farm.lost("p1")
    end_check(farm, command, True)
    assert farm.device().quarantine is not None
    assert next_due(farm.state, farm.now, LEASES) is None
    farm.ready("p1")
    assert start_check(farm).check_id


def test_a_check_of_which_nothing_is_heard_has_failed(farm):
    farm.ready("p1")
    quarantine(farm)
    command = start_check(farm)
    farm.now = next_due(farm.state, farm.now, LEASES)
    (event,) = due(farm.state, farm.now, LEASES)
    assert event == HealthChecked(farm.now, "p1", command.check_id, False, "it did not end in time")
    assert farm.now == farm.device().health_check.started_at + CHECK_LIMIT_S
    farm.apply(event)
    assert farm.device().quarantine.next_check_at > farm.now


def test_no_check_begins_while_the_phone_works_or_is_away(leased):
    quarantine(leased)
    leased.now += 10_000
    assert not any(isinstance(event, HealthCheckStarted) for event in due(leased.state, leased.now, LEASES))
    with pytest.raises(Bug):
        leased.apply(HealthCheckStarted(leased.now, "p1", "check"))
    leased.finished()
    leased.lost("p1")
    assert due(leased.state, leased.now, LEASES) == ()


@pytest.mark.parametrize("kind", [AttemptFinished, AttemptFailed])
@pytest.mark.parametrize("cancelled", [True, False])
def test_a_phone_that_cannot_prove_its_base_is_not_given_to_the_next(leased, kind, cancelled):
    if cancelled:
        leased.cancel()
    detail = (False, {}) if kind is AttemptFinished else ("cancelled on the phone",)
    leased.apply(kind(leased.now, "a1", 1, "p1", *detail, base_proven=False))
    assert leased.device().state is DeviceState.QUARANTINED
    assert "base" in leased.device().quarantine.reason
    assert not leased.device().free
    if kind is AttemptFinished and not cancelled:
        assert leased.trial().state is TrialState.DONE


def test_a_drained_phone_finishes_and_gets_nothing_new(leased):
    leased.apply(DeviceDrained(leased.now, "p1", "it is sold"))
    assert leased.device().state is DeviceState.LEASED
    assert "it is sold" in device_view(leased.state, "p1").reason
    leased.finished()
    assert leased.trial().state is TrialState.DONE
    assert leased.device().state is DeviceState.DRAINED
    assert [pair.device_id for pair in FifoPolicy().assign(leased.state, leased.now)] == ["p2"]
    with pytest.raises(Bug):
        leased.lease("a2", "job/1", "p1")
    leased.apply(DeviceUndrained(leased.now, "p1"))
    assert leased.device().free
    assert isinstance(leased.lease("a2", "job/1", "p1")[0], Dispatch)


def test_a_drain_outlives_restarts_and_reconnections_but_not_the_place(farm):
    farm.ready("p1")
    farm.apply(DeviceDrained(farm.now, "p1"))
    farm.start(2)
    farm.ready("p1", serial="another")
    assert farm.device().state is DeviceState.DRAINED
    assert "undrain" in device_view(farm.state, "p1").action


def test_each_step_of_a_recovery_is_shown_in_words(leased):
    leased.lost("p1", "the agent does not answer")
    at = leased.now
    leased.now += 3
    leased.apply(RecoveryStep(leased.now, "p1", "restart_agent", 2, "the agent does not answer"))
    view = device_view(leased.state, "p1")
    assert (view.state, view.reason) == (
        "connecting",
        "restarting its agent (try 2): the agent does not answer",
    )
    assert leased.attempt().lost_at == at, "the lease waits from the first moment on"


def test_a_phone_that_was_never_ready_stays_in_quarantine_when_it_is(farm):
    farm.add("p1")
    quarantine(farm)
    farm.ready("p1")
    assert farm.device().state is DeviceState.QUARANTINED
    farm.ready("p1", serial="another")
    assert farm.device().free


def test_a_phone_tells_since_when_it_is_what_it_is(farm):
    farm.ready("p1")
    at = farm.now
    farm.submit(trials=2)
    for seconds, act, state in (
        (10, lambda: farm.lease("a1", "job/0"), "leased"),
        (20, lambda: farm.finished("a1"), "ready"),
        (30, lambda: farm.lease("a2", "job/1"), "leased"),
        (50, lambda: farm.finished("a2"), "ready"),
        (60, lambda: farm.apply(DeviceDrained(farm.now, "p1", "sold")), "drained"),
        (70, lambda: farm.apply(DeviceUndrained(farm.now, "p1")), "ready"),
        (80, lambda: farm.apply(DeviceQuarantined(farm.now, "p1", "hot", "cool it", True)), "quarantined"),
        (90, lambda: farm.apply(DeviceReleased(farm.now, "p1")), "ready"),
        (95, lambda: farm.lost("p1"), "lost"),
    ):
        farm.now = at + seconds
        act()
        assert (device_view(farm.state, "p1").state, farm.device().changed_at) == (state, farm.now)


def test_draining_a_phone_that_works_does_not_begin_its_lease_anew(leased):
    at = leased.device().changed_at
    leased.now += 5
    leased.apply(DeviceDrained(leased.now, "p1", ""))
    assert leased.device().changed_at == at
