import pytest

from mobifarm.controller.core.commands import Acknowledge, CancelAttempt, Dispatch
from mobifarm.controller.core.events import DeviceForgotten, DeviceReleased, DeviceState
from mobifarm.controller.core.state import AttemptState, TrialState
from mobifarm.controller.errors import Bug


def quarantine(farm, place="p1"):
    farm.submit("bad", attempt_limit=9)
    for number in range(3):
        farm.lease(f"bad-{number}", "bad/0", place)
        farm.broke(f"bad-{number}", "no answer")


def test_a_phone_goes_from_plugged_in_to_ready(farm):
    farm.add("p1")
    assert farm.device().state is DeviceState.DISCOVERED
    for state in (DeviceState.AWAITING_AUTHORISATION, DeviceState.CONNECTING, DeviceState.PROVISIONING):
        farm.change("p1", state, "why", "do this")
        assert (farm.device().state, farm.device().reason, farm.device().action) == (state, "why", "do this")
    farm.ready("p1", properties={"ro.soc.model": "SM8650"})
    assert farm.device().state is DeviceState.READY
    assert farm.device().reason == farm.device().action == ""
    assert farm.device().properties == {"ro.soc.model": "SM8650"}
    assert farm.device().measurement_epoch == 1


def test_adding_a_connected_phone_again_changes_nothing(farm):
    farm.ready("p1")
    farm.add("p1")
    assert farm.device().state is DeviceState.READY


def test_a_lost_phone_that_is_seen_again_is_discovered_and_keeps_its_lease(leased):
    leased.lost("p1")
    leased.now += 5
    leased.add("p1")
    assert leased.device().state is DeviceState.DISCOVERED
    assert leased.attempt().lost_at == leased.now - 5


@pytest.mark.parametrize("held", [[("a1", 1, "running")], [("a1", 1, "finished")], []])
def test_a_phone_that_comes_back_resumes_its_attempt_under_the_same_token(leased, held):
    leased.lost("p1")
    assert leased.attempt().lost_at == leased.now
    leased.now += 60
    assert leased.ready("p1", held=held, token=1) == (Dispatch("p1", "a1", "job/0", 1),)
    assert leased.attempt().lost_at is None
    assert leased.device().state is DeviceState.LEASED
    leased.finished()
    assert leased.trial().state is TrialState.DONE


def test_the_first_moment_of_a_loss_counts(leased):
    leased.lost("p1")
    at = leased.now
    leased.now += 10
    leased.change("p1", DeviceState.CONNECTING)
    leased.lost("p1", "again")
    assert leased.attempt().lost_at == at


def test_a_result_that_overtakes_the_news_of_the_loss_counts(leased):
    leased.lost("p1")
    assert leased.finished() == (Acknowledge("p1", "a1"),)
    assert leased.trial().state is TrialState.DONE


def test_attempts_that_nobody_waits_for_are_discarded_when_the_phone_is_ready(farm):
    commands = farm.ready("p1", held=[("old", 1, "finished"), ("older", 2, "running")], token=2)
    assert commands == (
        Acknowledge("p1", "old"),
        CancelAttempt("p1", "older"),
        Acknowledge("p1", "older"),
    )


def test_stale_attempts_are_discarded_before_the_live_one_is_resumed(leased):
    leased.lost("p1")
    commands = leased.ready("p1", held=[("a1", 1, "running"), ("old", 1, "finished")], token=1)
    assert commands == (Acknowledge("p1", "old"), Dispatch("p1", "a1", "job/0", 1))


def test_fencing_tokens_continue_above_what_a_phone_has_seen(farm):
    farm.ready("p1", token=41)
    assert farm.state.next_fencing_token == 42


def test_a_phone_with_an_absurd_token_is_quarantined_and_raises_nothing(farm):
    farm.ready("p1", token=2**63)
    assert farm.state.next_fencing_token == 1
    assert farm.device().state is DeviceState.QUARANTINED


def test_a_lease_that_a_newer_token_has_shut_out_goes_elsewhere(leased):
    leased.lost("p1")
    assert leased.ready("p1", token=5, held=[("a1", 1, "running")]) == (
        CancelAttempt("p1", "a1"),
        Acknowledge("p1", "a1"),
    )
    assert leased.attempt().state is AttemptState.EXPIRED
    assert leased.trial().state is TrialState.PENDING


@pytest.mark.parametrize("change", [{"serial": "other"}, {"fingerprint": "newer"}])
def test_another_phone_or_system_starts_a_measurement_epoch_and_inherits_no_lease(leased, change):
    leased.lost("p1")
    assert leased.ready("p1", **change) == ()
    assert leased.device().measurement_epoch == 2
    assert leased.attempt().measurement_epoch == 1
    assert leased.attempt().state is AttemptState.EXPIRED
    assert leased.trial().state is TrialState.PENDING
    assert leased.device().free


def test_the_same_phone_stays_in_its_measurement_epoch(farm):
    farm.ready("p1")
    farm.lost("p1")
    farm.ready("p1")
    assert farm.device().measurement_epoch == 1


def test_three_failures_in_a_row_put_a_phone_into_quarantine(farm):
    farm.ready("p1")
    quarantine(farm)
    assert farm.device().state is DeviceState.QUARANTINED
    assert "no answer" in farm.device().quarantine.reason
    assert farm.device().quarantine.action
    assert not farm.device().free


def test_a_result_ends_the_row_of_failures(farm):
    farm.ready("p1")
    farm.submit(trials=2, attempt_limit=9)
    for number in range(2):
        farm.lease(f"broken-{number}")
        farm.broke(f"broken-{number}")
    farm.lease("good", "job/1")
    farm.finished("good", failed=True)
    farm.lease("broken-2")
    farm.broke("broken-2")
    assert farm.device().state is DeviceState.READY


def test_an_attempt_over_its_limit_counts_against_a_connected_phone(leased):
    leased.expired()
    assert leased.device().consecutive_failures == 1


def test_a_quarantine_outlives_reconnection_and_restart(farm):
    farm.ready("p1")
    quarantine(farm)
    farm.start(2)
    assert farm.device().state is DeviceState.LOST
    farm.ready("p1")
    assert farm.device().state is DeviceState.QUARANTINED


def test_a_released_phone_works_again(farm):
    farm.ready("p1")
    quarantine(farm)
    farm.apply(DeviceReleased(farm.now, "p1"))
    assert farm.device().state is DeviceState.READY
    assert farm.device().consecutive_failures == 0


def test_a_quarantine_ends_with_the_phone_that_it_was_for(farm):
    farm.ready("p1")
    quarantine(farm)
    farm.ready("p1", serial="other")
    assert farm.device().state is DeviceState.READY


def test_an_operators_quarantine_lets_the_running_attempt_finish(leased):
    leased.change("p1", DeviceState.QUARANTINED, "it smells", "look at it")
    assert leased.device().state is DeviceState.LEASED
    leased.finished()
    assert leased.trial().state is TrialState.DONE
    assert leased.device().state is DeviceState.QUARANTINED
    assert not leased.device().free


@pytest.mark.parametrize("pause", [DeviceState.COOLING, DeviceState.CHARGING])
def test_a_pausing_phone_keeps_its_lease_and_works_for_jobs_that_do_not_mind(leased, pause):
    leased.change("p1", pause, "41 °C")
    assert leased.attempt().lost_at is None
    leased.finished()
    assert leased.device().state is pause
    assert leased.device().free
    leased.lease("a2", "job/1", "p1")
    leased.finished("a2")
    assert (leased.device().state, leased.device().reason) == (DeviceState.READY, "")
    leased.change("p1", DeviceState.READY)
    assert leased.device().free


@pytest.mark.parametrize("state", [DeviceState.READY, DeviceState.COOLING, DeviceState.CHARGING])
def test_a_phone_without_a_session_cannot_be_declared_ready(farm, state):
    farm.add("p1")
    with pytest.raises(Bug):
        farm.change("p1", state)


def test_a_forgotten_phone_gives_its_work_back_and_is_heard_no_more(leased):
    assert leased.apply(DeviceForgotten(leased.now, "p1")) == (
        CancelAttempt("p1", "a1"),
        Acknowledge("p1", "a1"),
    )
    assert leased.trial().state is TrialState.PENDING
    assert leased.ready("p1") == ()
    assert leased.device().state is DeviceState.RETIRED


def test_a_phone_forgotten_while_it_is_away_needs_no_command(leased):
    leased.lost("p1")
    assert leased.apply(DeviceForgotten(leased.now, "p1")) == ()
    assert leased.trial().state is TrialState.PENDING


def test_a_forgotten_place_starts_afresh_in_a_new_measurement_epoch(farm):
    farm.ready("p1")
    quarantine(farm)
    farm.apply(DeviceForgotten(farm.now, "p1"))
    farm.add("p1")
    farm.ready("p1")
    assert farm.device().state is DeviceState.READY
    assert farm.device().measurement_epoch == 2


def test_a_restarted_controller_finds_all_phones_lost_and_counts_from_then(leased):
    leased.lost("p1")
    leased.apply(DeviceForgotten(leased.now, "p2"))
    leased.now += 9000
    leased.start(2)
    assert leased.device("p1").state is DeviceState.LOST
    assert "restarted" in leased.device("p1").reason
    assert leased.device("p2").state is DeviceState.RETIRED
    assert leased.attempt().live
    assert leased.attempt().lost_at == leased.attempt().counted_from == leased.now


def test_a_phone_lost_while_it_stops_an_attempt_is_free_at_its_return(leased):
    leased.cancel()
    leased.lost("p1")
    leased.ready("p1")
    assert leased.device().free


def test_a_phone_whose_agent_was_restarted_while_it_stopped_an_attempt_is_free(leased):
    leased.cancel()
    leased.ready("p1")
    assert leased.device().free
