from mobifarm.controller.core.events import AttemptStarted, DeviceState
from mobifarm.controller.core.state import take_changes
from mobifarm.controller.core.views import attempt_view, device_view, job_attempts, job_view, trial_view


def test_a_job_shows_how_far_it_is(leased):
    view = job_view(leased.state, "job")
    assert (view.state, view.trials, view.pending, view.leased, view.ended) == ("running", 2, 1, 1, 0)
    leased.finished()
    leased.lease("a2", "job/1", "p2")
    leased.now += 7
    leased.finished("a2", failed=True)
    view = job_view(leased.state, "job")
    assert (view.state, view.done, view.failed, view.ended) == ("done", 1, 1, 2)
    assert view.finished_at == leased.now


def test_a_trial_shows_its_attempts_and_its_result(leased):
    leased.broke()
    leased.lease("a2", "job/0", "p2")
    leased.finished("a2")
    view = trial_view(leased.state, "job/0")
    assert (view.label, view.state, view.attempts, view.result_attempt_id) == ("label 0", "done", 2, "a2")


def test_the_attempts_of_a_job_show_where_each_ran_and_what_became_of_it(leased):
    leased.apply(AttemptStarted(leased.now, "a1"))
    leased.broke(reason="the agent went away")
    leased.lease("a2", "job/0", "p2")
    leased.finished("a2")
    rows = [
        (row.label, row.device_id, row.serial, row.state, row.reason)
        for row in job_attempts(leased.state, "job")
    ]
    assert rows == [
        ("label 0", "p1", "serial-p1", "broken", "the agent went away"),
        ("label 0", "p2", "serial-p2", "done", ""),
    ]


def test_an_attempt_keeps_the_phone_that_it_ran_on(leased):
    leased.finished()
    leased.ready("p1", serial="another")
    view = attempt_view(leased.state, "a1")
    assert (view.serial, view.measurement_epoch) == ("serial-p1", 1)


def test_a_phone_that_was_never_ready_shows_what_to_do(farm):
    farm.add("p1")
    farm.change("p1", DeviceState.AWAITING_AUTHORISATION, "no key accepted", "Tap allow on the phone.")
    view = device_view(farm.state, "p1")
    assert (view.state, view.reason, view.action) == (
        "awaiting_authorisation",
        "no key accepted",
        "Tap allow on the phone.",
    )
    assert (view.serial, view.model, view.execution, view.measurement_epoch) == ("", "", "", 0)


def test_a_phone_shows_what_it_works_on(leased):
    leased.ready("p1", properties={"ro.product.model": "Pixel 9"})
    view = device_view(leased.state, "p1")
    assert (view.state, view.model, view.attempt_id, view.trial_id) == ("leased", "Pixel 9", "a1", "job/0")


def test_a_phone_in_quarantine_shows_why_and_what_to_do_even_when_it_is_lost(farm):
    farm.ready("p1")
    farm.change("p1", DeviceState.QUARANTINED, "it smells", "Look at it.")
    assert device_view(farm.state, "p1").reason == "it smells"
    farm.lost("p1", "unplugged")
    view = device_view(farm.state, "p1")
    assert (view.state, view.reason, view.action) == ("lost", "unplugged; it smells", "Look at it.")


def test_a_phone_that_must_stop_first_says_so(leased):
    leased.cancel()
    view = device_view(leased.state, "p1")
    assert (view.state, view.reason) == ("ready", "waiting until attempt a1 has stopped")


def test_a_resumed_attempt_is_among_the_changes(leased):
    leased.lost("p1")
    take_changes(leased.state)
    leased.ready("p1")
    changes = take_changes(leased.state)
    assert changes.attempts == {"a1"}
    assert changes.devices == {"p1"}
    assert take_changes(leased.state).attempts == set()
