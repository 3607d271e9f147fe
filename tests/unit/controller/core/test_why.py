import pytest

from mobifarm.controller.core.conditions import Conditions, Gates
from mobifarm.controller.core.events import DeviceConditions, DeviceState
from mobifarm.controller.core.policies.fifo import FifoPolicy
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.why import why


def ask(farm, job="job"):
    return why(farm.state, FifoPolicy(), job, farm.now)


def test_a_farm_without_phones_says_what_to_do(farm):
    farm.submit()
    assert "mobifarm devices add" in ask(farm).summary


def test_the_nearest_misses_come_first_with_every_unmet_condition(farm):
    farm.ready("a", properties={"ro.soc.model": "SM8550", "ro.build.version.release": "13"})
    farm.ready("b", properties={"ro.soc.model": "SM8550", "ro.build.version.release": "14"})
    farm.submit(selector=DeviceSelector(where=("npu.arch >= 75", "android.version >= 14", "tag == bench")))
    answer = ask(farm)
    assert [(miss.device_id, len(miss.unmet)) for miss in answer.nearest] == [("b", 2), ("a", 3)]
    assert answer.nearest[0].unmet == ("its npu.arch is 73, wanted >= 75", "it has no tag bench")
    assert "the nearest, serial-b (b), misses 2 conditions" in answer.summary


def test_phones_are_named_as_people_know_them_with_their_place_for_commands(farm):
    farm.add("usb:1-1")
    farm.ready("usb:1-2", serial="0A1B2C", properties={"ro.product.model": "Pixel 8"})
    farm.ready("usb:1-3", serial="s" * 1000, properties={"ro.product.model": "m" * 1000})
    farm.ready("computer", execution="computer", methods=("rome",))
    farm.submit()
    farm.submit("picky", selector=DeviceSelector(serials=("other",)))
    answer, picky = ask(farm), ask(farm, "picky")
    names = {each.device_id: each.name for each in (*answer.phones, *answer.nearest)}
    assert names.keys() == {"usb:1-1", "usb:1-2", "usb:1-3"}
    assert names["usb:1-2"] == "Pixel 8 0A1B2C (usb:1-2)"
    assert names["usb:1-1"] == "usb:1-1"
    assert len(names["usb:1-3"]) < 100
    assert answer.summary.startswith("next is Pixel 8 0A1B2C (usb:1-2): ")
    assert "Pixel 8 0A1B2C (usb:1-2)" in {miss.name for miss in picky.nearest}
    farm.submit("baseline", methods=("rome",))
    (computer,) = ask(farm, "baseline").phones
    assert computer.name == "computer"


def test_a_busy_phone_is_free_after_the_mean_duration_which_is_an_estimate(farm):
    farm.ready("p1")
    farm.submit(trials=3)
    farm.lease("a1")
    farm.now += 40
    farm.finished("a1")
    farm.lease("a2", "job/1")
    farm.now += 10
    (phone,) = ask(farm).phones
    assert (phone.at, phone.estimate) == (farm.now + 30, True)
    assert "the mean duration is 40 s" in phone.words


def test_without_a_finished_edit_there_is_no_guess(farm):
    farm.ready("p1")
    farm.submit(trials=2)
    farm.lease("a1")
    (phone,) = ask(farm).phones
    assert (phone.at, phone.estimate) == (None, False)
    assert "no edit has ended yet" in phone.words


def test_a_warm_phone_is_cool_when_its_curve_says(farm):
    farm.ready("p1")
    celsius = 50.0
    for _ in range(20):
        farm.apply(DeviceConditions(farm.now, "p1", Conditions(temperature_celsius=celsius)))
        farm.now += 30
        celsius = 25 + (celsius - 25) * 0.95
    farm.now += 300
    farm.apply(DeviceConditions(farm.now, "p1", Conditions(temperature_celsius=45.0)))
    farm.submit(gates=Gates(max_temperature_celsius=35.0))
    (phone,) = ask(farm).phones
    # 20 K above where it settles to 10 K: ln 2 / k, and k is about 0.05 / 30 s.
    assert phone.at - farm.now == pytest.approx(405, rel=0.03)
    assert phone.estimate
    assert "45.0 °C, above 35 °C" in phone.words
    farm.state.jobs["job"].gates = Gates(max_temperature_celsius=20.0)
    (never,) = ask(farm).phones
    assert never.at is None
    assert "it settles at 25.0 °C" in never.words


def test_a_warm_phone_without_a_curve_has_no_time(farm):
    farm.ready("p1")
    farm.apply(DeviceConditions(farm.now, "p1", Conditions(temperature_celsius=45.0)))
    farm.submit(gates=Gates(max_temperature_celsius=35.0))
    (phone,) = ask(farm).phones
    assert phone.at is None
    assert "not known yet" in phone.words


def test_a_back_off_is_told(farm):
    farm.ready("p1")
    farm.submit()
    farm.lease("a1")
    farm.broke("a1")
    answer = ask(farm)
    assert "tried again in 1 s" in answer.summary
    assert answer.causes[0].trials == 1


def test_a_phone_that_goes_to_a_job_before_it_names_that_job(farm):
    farm.ready("p1")
    farm.submit("urgent", priority=5)
    farm.submit()
    (phone,) = ask(farm).phones
    assert "gives it to urgent first" in phone.words
    assert ask(farm, "urgent").phones[0].words == "it starts a trial of this job now"


def test_the_bound_on_phones_is_named(farm):
    for place in ("p1", "p2"):
        farm.ready(place)
    farm.submit(trials=2, selector=DeviceSelector(count=1))
    farm.lease("a1")
    assert "it allows 1 at a time" in ask(farm).summary


def test_a_group_whose_phone_is_gone_says_so(farm):
    for place in ("p1", "p2"):
        farm.ready(place)
    farm.submit(trials=2, groups=("all",))
    farm.lease("a1")
    farm.finished("a1")
    farm.lost("p1")
    assert "they belong on serial-p1 (p1), which is lost" in ask(farm).summary
    farm.ready("p1", fingerprint="a new system")
    assert "cancel the job" in ask(farm).summary


def test_phones_that_are_away_or_in_quarantine_would_do_later(farm):
    farm.ready("p1")
    farm.lost("p1", "the cable was pulled")
    farm.ready("p2")
    farm.change("p2", DeviceState.QUARANTINED, "it is odd", "look at it")
    farm.submit()
    words = {phone.device_id: phone.words for phone in ask(farm).phones}
    assert "the cable was pulled" in words["p1"]
    assert "it is odd" in words["p2"]


def test_a_job_that_has_ended_does_not_wait(leased):
    leased.finished()
    leased.cancel()
    answer = ask(leased)
    assert (answer.waiting, answer.phones, answer.summary) == (0, (), "no trial of it waits: it is cancelled")


def test_a_method_that_nobody_does_is_a_cause(farm):
    farm.ready("p1")
    farm.submit(trials=2, methods=("rome",))
    answer = ask(farm)
    assert answer.nearest[0].unmet == ("it does no edits with rome",)
    assert "no device that is there does edits with rome" in answer.causes[0].words
