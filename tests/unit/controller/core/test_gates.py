import pytest

from mobifarm.controller.core.conditions import Conditions, Gates, conditions_of
from mobifarm.controller.core.events import DeviceConditions, DeviceState
from mobifarm.controller.core.gates import closed_gates
from mobifarm.controller.core.holds import holds
from mobifarm.controller.core.policies.fifo import FifoPolicy
from mobifarm.controller.core.policies.round import Matches
from mobifarm.controller.core.selector import DeviceSelector

WARM = Gates(max_temperature_celsius=40.0)
ALL = Gates(40.0, 0.2, False, True, 1e9, "refuse")


def tell(farm, place="p1", **values):
    return farm.apply(DeviceConditions(farm.now, place, Conditions(**values)))


def closed(farm, gates, place="p1"):
    return closed_gates(gates, farm.device(place), farm.now)


def assigned(farm):
    return [(pair.trial_id, pair.device_id) for pair in FifoPolicy().assign(farm.state, farm.now)]


def show(farm):
    changes = holds(farm.state, farm.now, Matches())
    for change in changes:
        farm.apply(change)
    return len(changes)


@pytest.fixture
def phone(farm):
    farm.ready("p1")
    return farm


@pytest.mark.parametrize(
    ("values", "gates", "state", "words"),
    [
        ({"temperature_celsius": 40.1}, WARM, DeviceState.COOLING, "40.1 °C, above 40 °C"),
        ({"battery": 0.19}, Gates(min_battery=0.2), DeviceState.CHARGING, "at 19%, below 20%"),
        ({"charging": True}, Gates(charging=False), DeviceState.READY, "is not charging"),
        ({"charging": False}, Gates(charging=True), DeviceState.READY, "is charging"),
        ({"screen_on": True}, Gates(screen_off=True), DeviceState.READY, "its screen is on"),
        ({"free_storage_bytes": 2**20}, Gates(min_free_storage_bytes=2**21), DeviceState.READY, "1 MiB"),
    ],
)
def test_a_closed_gate_says_what_it_found(phone, values, gates, state, words):
    tell(phone, **values)
    (held,) = closed(phone, gates)
    assert held.state is state
    assert words in held.reason


def test_a_phone_that_fulfils_everything_may_start(phone):
    tell(
        phone,
        temperature_celsius=40.0,
        battery=0.2,
        charging=False,
        screen_on=False,
        free_storage_bytes=1e9,
    )
    assert closed(phone, ALL) == []


def test_unknown_sensors_are_a_matter_of_the_job(phone):
    assert len(closed(phone, ALL)) == 5
    assert closed(phone, Gates(40.0, 0.2, False, True, 1e9, "allow")) == []


def test_old_news_is_no_news(phone):
    tell(phone, temperature_celsius=50.0)
    phone.now += 180
    assert closed(phone, WARM)
    phone.now += 1
    assert closed(phone, WARM) == []
    assert "not known" in closed(phone, Gates(40.0, unknown="refuse"))[0].reason


def test_a_new_session_begins_without_news(phone):
    tell(phone, temperature_celsius=50.0)
    phone.ready("p1")
    assert closed(phone, WARM) == []


def test_the_computer_has_no_gates(farm):
    farm.ready("computer", execution="computer", methods=("rome",))
    assert closed(farm, ALL, "computer") == []


def test_a_warm_phone_waits_and_another_job_may_have_it(phone):
    tell(phone, temperature_celsius=50.0)
    phone.submit("measured", gates=WARM)
    assert assigned(phone) == []
    phone.submit("careless")
    assert assigned(phone) == [("careless/0", "p1")]


def test_a_phone_is_shown_as_held_back_until_it_is_not(phone):
    tell(phone, temperature_celsius=50.0)
    phone.submit(gates=WARM)
    assert show(phone) == 1
    assert phone.device().state is DeviceState.COOLING
    assert "at 40 °C or below (job job)" in phone.device().reason
    tell(phone, temperature_celsius=45.0)
    assert show(phone) == 0  # the same rule is not told again
    tell(phone, temperature_celsius=39.0)
    assert show(phone) == 1
    assert (phone.device().state, phone.device().reason) == (DeviceState.READY, "")


def test_a_lease_ends_what_was_shown(phone):
    tell(phone, temperature_celsius=50.0)
    phone.submit(gates=WARM)
    show(phone)
    phone.submit("careless")
    phone.lease("a1", "careless/0", "p1")
    phone.finished("a1")
    assert phone.device().state is DeviceState.READY


def test_a_phone_that_the_job_does_not_want_is_not_held_back(phone):
    tell(phone, temperature_celsius=50.0)
    phone.submit(gates=WARM, selector=DeviceSelector(execution="phone"))
    assert show(phone) == 0


def test_nothing_waits_nothing_is_held_back(phone):
    tell(phone, temperature_celsius=50.0)
    phone.submit(gates=WARM)
    show(phone)
    phone.cancel()
    show(phone)
    assert phone.device().state is DeviceState.READY


def test_sensors_become_conditions():
    values = {
        "battery/temperature": 31.2,
        "battery/capacity": 0.8,
        "battery/charging": 1.0,
        "thermal/skin-therm": 35.0,
        "screen/on": 0.0,
        "storage/available": 5e9,
    }
    assert conditions_of(values) == Conditions(31.2, 0.8, True, False, 5e9)
    del values["battery/temperature"]
    assert conditions_of({**values, "thermal/VIRTUAL-SKIN": 36.0}).temperature_celsius == 36.0
    assert conditions_of({}) == Conditions()
