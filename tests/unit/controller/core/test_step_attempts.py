import copy

import pytest

from mobifarm.controller.core.commands import Acknowledge, CancelAttempt, Dispatch
from mobifarm.controller.core.events import AttemptStarted, DeviceState
from mobifarm.controller.core.state import AttemptState, JobState, TrialState
from mobifarm.controller.errors import Bug


def test_a_submitted_job_waits_with_all_its_trials(farm):
    assert farm.submit(trials=3) == ()
    assert [farm.trial(f"job/{n}").state for n in range(3)] == [TrialState.PENDING] * 3
    assert farm.state.jobs["job"].state is JobState.QUEUED


def test_a_granted_lease_is_dispatched_to_its_phone(farm):
    farm.ready("p1")
    farm.submit()
    assert farm.lease(token=7) == (Dispatch("p1", "a1", "job/0", 7),)
    assert farm.trial().state is TrialState.LEASED
    assert farm.device().state is DeviceState.LEASED
    assert farm.state.jobs["job"].state is JobState.RUNNING
    assert farm.state.next_fencing_token == 8


def test_an_attempt_that_started_is_running(leased):
    leased.now += 5
    leased.apply(AttemptStarted(leased.now, "a1"))
    assert leased.attempt().state is AttemptState.RUNNING
    assert leased.attempt().started_at == leased.now


def test_news_of_a_start_after_the_end_changes_nothing(leased):
    leased.finished()
    leased.apply(AttemptStarted(leased.now, "a1"))
    assert leased.attempt().state is AttemptState.DONE


@pytest.mark.parametrize(
    ("failed", "trial_state", "attempt_state"),
    [(False, TrialState.DONE, AttemptState.DONE), (True, TrialState.FAILED, AttemptState.FAILED)],
)
def test_a_result_ends_its_trial_and_is_acknowledged(leased, failed, trial_state, attempt_state):
    assert leased.finished(failed=failed) == (Acknowledge("p1", "a1"),)
    assert leased.trial().state is trial_state
    assert leased.trial().result_attempt_id == "a1"
    assert leased.attempt().state is attempt_state
    assert leased.device().free


def test_a_job_is_done_when_its_last_trial_has_ended(leased):
    leased.finished()
    assert leased.state.jobs["job"].state is JobState.RUNNING
    leased.lease("a2", "job/1")
    leased.now += 3
    leased.finished("a2", failed=True)
    assert leased.state.jobs["job"].state is JobState.DONE
    assert leased.state.jobs["job"].finished_at == leased.now


def test_the_same_result_delivered_twice_counts_once(leased):
    leased.finished()
    assert leased.finished(failed=True) == (Acknowledge("p1", "a1"),)
    assert leased.trial().state is TrialState.DONE


def test_a_result_after_its_lease_expired_is_only_acknowledged(leased):
    leased.lost("p1")
    leased.expired()
    leased.lease("a2", "job/0", "p2")
    assert leased.finished() == (Acknowledge("p1", "a1"),)
    assert leased.trial().state is TrialState.LEASED
    assert leased.attempt().state is AttemptState.EXPIRED
    leased.finished("a2")
    assert leased.trial().result_attempt_id == "a2"


@pytest.mark.parametrize("wrong", [{"token": 99}, {"place": "p2"}])
def test_a_result_with_another_token_or_from_another_phone_is_fenced(leased, wrong):
    (acknowledge,) = leased.finished(**wrong)
    assert acknowledge == Acknowledge(wrong.get("place", "p1"), "a1")
    assert leased.trial().state is TrialState.LEASED


def test_a_result_of_an_attempt_that_nobody_knows_is_only_acknowledged(farm):
    farm.ready("p1")
    assert farm.finished("stranger", token=3, place="p1") == (Acknowledge("p1", "stranger"),)


def test_a_broken_attempt_is_tried_again_after_a_pause(leased):
    assert leased.broke() == (CancelAttempt("p1", "a1"), Acknowledge("p1", "a1"))
    assert leased.trial().state is TrialState.PENDING
    assert leased.trial().not_before == leased.now + 1
    assert leased.attempt().state is AttemptState.BROKEN
    assert leased.attempt().reason == "the agent went away"
    assert leased.device().free


def test_an_attempt_that_broke_with_its_link_needs_no_command(leased):
    leased.lost("p1")
    assert leased.broke() == ()
    assert leased.trial().state is TrialState.PENDING


def test_the_pause_doubles_with_every_broken_attempt_up_to_a_minute(farm):
    farm.submit(attempt_limit=20)
    pauses = []
    for number in range(9):
        place = f"p{number}"
        farm.ready(place)
        farm.lease(f"a{number}", "job/0", place)
        farm.broke(f"a{number}")
        pauses.append(farm.trial().not_before - farm.now)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_trial_whose_attempts_are_used_up_is_abandoned(farm):
    farm.ready("p1")
    farm.submit(attempt_limit=2)
    farm.lease("a1")
    farm.broke("a1")
    farm.lease("a2")
    farm.lost("p1")
    farm.expired("a2")
    assert farm.trial().state is TrialState.ABANDONED
    assert farm.state.jobs["job"].state is JobState.DONE
    assert farm.trial().result_attempt_id is None


def test_stale_news_of_a_failure_changes_nothing(leased):
    leased.finished()
    assert leased.broke() == ()
    assert leased.trial().state is TrialState.DONE
    assert leased.device().consecutive_failures == 0


def test_a_lease_that_expires_on_a_connected_phone_stops_it_and_keeps_it_until_it_has_stopped(leased):
    assert leased.expired() == (CancelAttempt("p1", "a1"),)
    assert leased.trial().state is TrialState.PENDING
    assert leased.trial().not_before <= leased.now
    assert not leased.device().free
    leased.finished()
    assert leased.device().free


def test_a_lease_that_expires_on_a_lost_phone_needs_no_command(leased):
    leased.lost("p1")
    assert leased.expired() == ()
    assert leased.device().consecutive_failures == 0


def test_a_lease_that_has_ended_does_not_expire(leased):
    leased.finished()
    assert leased.expired() == ()
    assert leased.trial().state is TrialState.DONE


def test_cancelling_a_job_ends_what_waits_and_stops_what_runs(leased):
    assert leased.cancel() == (CancelAttempt("p1", "a1"),)
    assert {leased.trial(f"job/{n}").state for n in range(2)} == {TrialState.CANCELLED}
    assert leased.attempt().state is AttemptState.CANCELLED
    assert leased.state.jobs["job"].state is JobState.CANCELLED
    assert leased.device().stopping_attempt_id == "a1"


def test_a_cancelled_phone_is_free_once_it_reports_the_end(leased):
    leased.cancel()
    assert not leased.device().free
    assert leased.finished() == (Acknowledge("p1", "a1"),)
    assert leased.device().free
    assert leased.trial().state is TrialState.CANCELLED


def test_a_cancelled_phone_is_free_when_its_attempt_breaks_and_is_not_blamed(leased):
    leased.cancel()
    leased.broke()
    assert leased.device().free
    assert leased.device().consecutive_failures == 0


def test_cancelling_keeps_the_results_that_are_there(leased):
    leased.finished()
    leased.cancel()
    assert leased.trial("job/0").state is TrialState.DONE
    assert leased.trial("job/1").state is TrialState.CANCELLED


def test_cancelling_a_job_that_has_ended_changes_nothing(farm):
    farm.ready("p1")
    farm.submit()
    farm.lease()
    farm.finished()
    assert farm.cancel() == ()
    assert farm.state.jobs["job"].state is JobState.DONE


def test_cancelling_while_the_phone_is_away_discards_the_attempt_at_its_return(leased):
    leased.lost("p1")
    assert leased.cancel() == ()
    assert leased.ready("p1", held=[("a1", 1, "running")], token=1) == (
        CancelAttempt("p1", "a1"),
        Acknowledge("p1", "a1"),
    )


@pytest.mark.parametrize(
    "decide",
    [
        lambda farm: farm.submit("job"),
        lambda farm: farm.submit("empty", trials=0),
        lambda farm: farm.submit("never", attempt_limit=0),
        lambda farm: farm.cancel("unknown"),
        lambda farm: farm.expired("unknown"),
        lambda farm: farm.lease("a2", "job/0", "p2"),
        lambda farm: farm.lease("a2", "unknown", "p2"),
        lambda farm: farm.lease("a2", "job/1", "p1"),
        lambda farm: farm.lease("a2", "job/1", "unknown"),
        lambda farm: farm.lease("a1", "job/1", "p2"),
        lambda farm: farm.lease("a2", "job/1", "p2", token=1),
        lambda farm: farm.start(epoch=0),
        lambda farm: farm.lost("unknown"),
        lambda farm: farm.change("p1", DeviceState.LOST),
        lambda farm: farm.change("p1", DeviceState.LEASED),
        lambda farm: farm.change("p1", DeviceState.RETIRED),
    ],
)
def test_a_decision_that_does_not_fit_is_refused_and_changes_nothing(decide, leased):
    before = copy.deepcopy(leased.state)
    with pytest.raises(Bug):
        decide(leased)
    assert leased.state == before
