from mobifarm.controller.core.due import LeaseSettings, due, next_due
from mobifarm.controller.core.events import LeaseExpired

SETTINGS = LeaseSettings(lost_grace_s=30, attempt_limit_s=600)


def test_nothing_is_due_on_an_idle_farm(farm):
    farm.ready("p1")
    assert due(farm.state, farm.now, SETTINGS) == ()
    assert next_due(farm.state, farm.now, SETTINGS) is None


def test_a_lease_of_a_lost_phone_expires_at_the_end_of_its_grace(leased):
    leased.lost("p1", "the cable was pulled")
    end = leased.now + 30
    assert next_due(leased.state, leased.now, SETTINGS) == end
    assert due(leased.state, end - 0.001, SETTINGS) == ()
    assert due(leased.state, end, SETTINGS) == (
        LeaseExpired(end, "a1", "the phone was away for 30 s (the cable was pulled)"),
    )


def test_a_lease_of_a_phone_that_came_back_in_time_does_not_expire(leased):
    leased.lost("p1")
    leased.ready("p1")
    assert due(leased.state, leased.now + 599, SETTINGS) == ()


def test_an_attempt_expires_when_it_takes_too_long(leased):
    end = leased.now + 600
    assert next_due(leased.state, leased.now, SETTINGS) == end
    (expired,) = due(leased.state, end, SETTINGS)
    assert expired.reason == "the attempt took longer than 600 s"


def test_being_unplugged_again_and_again_does_not_extend_the_limit(leased):
    end = leased.now + 600
    for _ in range(3):
        leased.now += 190
        leased.lost("p1")
        leased.ready("p1")
    assert next_due(leased.state, leased.now, SETTINGS) == end


def test_the_time_in_which_no_controller_ran_counts_for_neither_limit(leased):
    leased.now += 86400
    leased.start(2)
    assert due(leased.state, leased.now, SETTINGS) == ()
    assert next_due(leased.state, leased.now, SETTINGS) == leased.now + 30
    leased.ready("p1")
    assert next_due(leased.state, leased.now, SETTINGS) == leased.now + 600


def test_the_end_of_a_back_off_is_waited_for(leased):
    leased.broke()
    assert next_due(leased.state, leased.now, SETTINGS) == leased.now + 1


def test_a_back_off_that_is_over_waits_for_a_phone_and_not_for_time(leased):
    leased.broke()
    assert next_due(leased.state, leased.now + 1, SETTINGS) is None


def test_a_trial_that_was_leased_or_cancelled_backs_off_no_more(leased):
    leased.broke()
    leased.lease("a2", "job/0", "p2")
    assert leased.state.backing_off == {}
    leased.broke("a2")
    leased.cancel()
    assert next_due(leased.state, leased.now, SETTINGS) is None


def test_the_limit_also_ends_an_attempt_whose_phone_is_away(leased):
    leased.now += 590
    leased.lost("p1")
    assert next_due(leased.state, leased.now, SETTINGS) == leased.now + 10
    (expired,) = due(leased.state, leased.now + 10, SETTINGS)
    assert expired.reason == "the attempt took longer than 600 s"
