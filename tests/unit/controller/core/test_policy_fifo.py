import pytest

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.policies.fifo import FifoPolicy
from mobifarm.controller.core.selector import DeviceSelector


def assigned(farm, now=None):
    proposals = FifoPolicy().assign(farm.state, farm.now if now is None else now)
    return [(proposal.trial_id, proposal.device_id) for proposal in proposals]


@pytest.fixture
def shelf(farm):
    for place in ("p1", "p2", "p3"):
        farm.ready(place)
    return farm


def test_trials_are_spread_over_the_free_phones_in_order(shelf):
    shelf.submit(trials=5)
    assert assigned(shelf) == [("job/0", "p1"), ("job/1", "p2"), ("job/2", "p3")]


def test_the_phone_with_the_least_work_so_far_comes_first(shelf):
    shelf.submit(trials=2)
    shelf.lease()
    shelf.finished()
    assert assigned(shelf) == [("job/1", "p2")]


def test_nothing_is_assigned_without_phones_or_without_work(farm):
    farm.submit()
    assert assigned(farm) == []
    farm.ready("p1")
    assert assigned(farm) == [("job/0", "p1")]
    farm.cancel()
    assert assigned(farm) == []


def test_a_higher_priority_goes_first_and_equals_go_by_submission(shelf):
    shelf.submit("first")
    shelf.submit("second")
    shelf.submit("urgent", priority=1)
    assert [trial for trial, _ in assigned(shelf)] == ["urgent/0", "first/0", "second/0"]


def test_a_retried_trial_keeps_its_place_in_the_queue(shelf):
    shelf.submit(trials=5)
    shelf.lease("a1", "job/0", "p1")
    shelf.lost("p1")
    shelf.expired("a1")
    assert [trial for trial, _ in assigned(shelf)] == ["job/0", "job/1"]


@pytest.mark.parametrize(
    "make_busy",
    [
        lambda farm: farm.lost("p1"),
        lambda farm: farm.change("p1", DeviceState.QUARANTINED, "odd", "look"),
        lambda farm: farm.lease("a1", "job/1", "p1"),
    ],
)
def test_only_free_phones_get_work(farm, make_busy):
    farm.ready("p1")
    farm.submit(trials=2)
    make_busy(farm)
    assert assigned(farm) == []


def test_phones_that_a_job_does_not_accept_are_left_to_the_next_job(farm):
    farm.ready("p1", execution="virtual")
    farm.submit("picky", selector=DeviceSelector(execution="phone"))
    farm.submit("easy")
    assert assigned(farm) == [("easy/0", "p1")]


def test_a_trial_that_backs_off_waits_and_lets_others_pass(shelf):
    shelf.submit(trials=2)
    shelf.lease()
    shelf.broke()
    assert assigned(shelf) == [("job/1", "p2")]
    assert assigned(shelf, shelf.now + 1) == [("job/0", "p2"), ("job/1", "p3")]


def test_a_trial_avoids_the_phone_that_broke_it_while_another_could_do_it(farm):
    farm.ready("p1")
    farm.ready("p2")
    farm.submit("other", selector=DeviceSelector(serials=("serial-p2",)))
    farm.submit()
    farm.lease("busy", "other/0", "p2")
    farm.lease("a1", "job/0", "p1")
    farm.broke("a1")
    assert assigned(farm, farm.now + 1) == []
    farm.finished("busy")
    assert assigned(farm, farm.now + 1) == [("job/0", "p2")]


def test_the_only_phone_gets_its_broken_trial_again(farm):
    farm.ready("p1")
    farm.ready("p2", execution="phone")
    farm.submit(selector=DeviceSelector(execution="virtual"))
    farm.lease()
    farm.broke()
    assert assigned(farm, farm.now + 1) == [("job/0", "p1")]


def test_a_job_may_bound_how_many_phones_work_for_it(shelf):
    shelf.submit("few", trials=5, selector=DeviceSelector(count=2))
    assert assigned(shelf) == [("few/0", "p1"), ("few/1", "p2")]
    shelf.lease("a1", "few/0", "p1")
    assert assigned(shelf) == [("few/1", "p2")]
    shelf.submit("other")
    assert assigned(shelf) == [("few/1", "p2"), ("other/0", "p3")]


@pytest.fixture
def mixed(farm):
    """A phone, the computer, and a job whose trials alternate between what each of them can do."""
    farm.ready("p1")
    farm.ready("computer", execution="computer", methods=("rome", "unedited"))
    return farm


def test_a_trial_goes_only_to_a_device_that_does_its_method(mixed):
    mixed.submit(trials=6, methods=("forward", "mobiedit", "rome"))
    assert sorted(assigned(mixed)) == [("job/0", "p1"), ("job/2", "computer")]
    mixed.lease("a1", "job/0", "p1")
    mixed.lease("a2", "job/2", "computer")
    mixed.finished("a2")
    assert assigned(mixed) == [("job/5", "computer")]
    mixed.finished("a1")
    assert sorted(assigned(mixed)) == [("job/1", "p1"), ("job/5", "computer")]


def test_a_method_that_no_device_does_waits(mixed):
    mixed.submit(trials=2, methods=("finetune", "forward"))
    assert assigned(mixed) == [("job/1", "p1")]


def test_what_a_job_asks_of_its_phones_does_not_concern_the_computer(mixed):
    mixed.ready("p2", serial="R5", execution="phone")
    selector = DeviceSelector("phone", ("R5",), {"ro.soc.model": "SM8650"}, count=1)
    mixed.submit(trials=4, methods=("rome", "forward"), selector=selector)
    assert assigned(mixed) == [("job/0", "computer")]
    mixed.ready("p2", serial="R5", execution="phone", properties={"ro.soc.model": "SM8650"})
    mixed.lease("a1", "job/0", "computer")
    assert assigned(mixed) == [("job/1", "p2")]


def test_the_computer_gets_a_trial_again_that_broke_on_it(mixed):
    mixed.submit(methods=("rome",))
    mixed.lease(place="computer")
    mixed.broke()
    assert assigned(mixed, mixed.now + 1) == [("job/0", "computer")]


def test_trials_from_before_methods_were_placed_go_to_phones(mixed):
    mixed.submit(trials=2, methods=("",))
    assert assigned(mixed) == [("job/0", "p1")]


def test_a_computer_that_keeps_failing_says_where_to_look(mixed):
    mixed.submit(methods=("rome",))
    for number in range(3):
        mixed.lease(f"a{number}", place="computer")
        mixed.broke(f"a{number}")
    assert "log" in mixed.device("computer").quarantine.action
