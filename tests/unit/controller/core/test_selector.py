import pytest

from mobifarm.controller.core.events import DeviceAdded, DeviceReady, Identity
from mobifarm.controller.core.selector import DeviceSelector


@pytest.fixture
def phone(farm):
    farm.ready("p1", serial="R5", execution="phone", properties={"ro.soc.model": "SM8650"})
    return farm.device()


def test_an_empty_selector_accepts_every_phone(phone):
    assert DeviceSelector().mismatches(phone) == []


def test_a_phone_that_meets_every_condition_is_accepted(phone):
    selector = DeviceSelector("phone", ("R4", "R5"), {"ro.soc.model": "SM8650"})
    assert selector.mismatches(phone) == []


def test_every_unmet_condition_is_a_reason(phone):
    selector = DeviceSelector("virtual", ("R4",), {"ro.soc.model": "SM8550", "ro.build.type": "user"})
    assert selector.mismatches(phone) == [
        "its execution is phone, not virtual",
        "its serial R5 is not among R4",
        "its ro.soc.model is SM8650, not SM8550",
        "it has no property ro.build.type (wanted user)",
    ]


def test_a_phone_that_was_never_ready_is_not_accepted(farm):
    farm.add("p1")
    assert DeviceSelector().mismatches(farm.device()) == [
        "it has not been ready yet, so nothing is known about it"
    ]


def test_a_place_is_that_of_one_host(farm):
    farm.join("hub1")
    for host, place in (("", "usb:1-2"), ("hub1", "hub1/usb:1-2")):
        farm.apply(DeviceAdded(farm.now, place, "usb:1-2", "usb", host))
        identity = Identity("usb:1-2", place, "f")
        farm.apply(DeviceReady(farm.now, place, host or "own", identity, {}, "phone", (), "1", 0))
    for place in ("usb:1-2", "hub1/usb:1-2"):
        selector = DeviceSelector(where=(f"device == {place}",))
        accepted = [name for name, phone in farm.state.devices.items() if not selector.mismatches(phone)]
        assert accepted == [place]
