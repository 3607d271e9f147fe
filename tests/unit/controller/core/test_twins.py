"""One phone at two places: it gets one edit at a time, wherever its link is."""

from __future__ import annotations

import pytest

from mobifarm.controller.core.commands import Acknowledge
from mobifarm.controller.core.events import DeviceForgotten, DeviceState
from mobifarm.controller.core.policies import policy_named
from mobifarm.controller.core.twins import other_place
from mobifarm.controller.core.views import device_view
from mobifarm.controller.core.why import why
from mobifarm.controller.errors import Bug


@pytest.fixture
def twins(farm):
    farm.ready("usb", session="s")
    farm.ready("tcp", session="s")
    farm.ready("other", session="t")
    return farm


def free(farm):
    return {place for place, device in farm.state.devices.items() if device.free}


def test_the_first_place_gets_the_work_and_the_other_says_why_it_gets_none(twins):
    assert free(twins) == {"usb", "other"}
    view = device_view(twins.state, "tcp")
    assert view.reason == "it is the same phone as usb, which gets its work"
    assert "takes over when usb goes" in view.action
    assert other_place(twins.state, twins.device("tcp")) == "usb"
    assert other_place(twins.state, twins.device("other")) is None
    twins.submit(trials=3)
    with pytest.raises(Bug, match="tcp was leased"):
        twins.lease("a1", "job/0", "tcp")
    told = why(twins.state, policy_named("fifo"), "job", twins.now)
    assert "it is the same phone as usb, which gets its work" in {one.words for one in told.phones}


def test_the_other_place_takes_over_when_the_first_goes(twins):
    twins.lost("usb")
    assert free(twins) == {"tcp", "other"}
    twins.ready("usb", session="s")
    assert free(twins) == {"usb", "other"}


def test_a_lease_on_the_place_that_went_away_keeps_the_phone_until_it_ends(twins):
    twins.submit()
    twins.lease("a1", "job/0", "usb")
    twins.lost("usb")
    assert free(twins) == {"other"}
    twins.expired("a1")
    assert free(twins) == {"tcp", "other"}


def test_a_place_that_works_stays_the_chosen_one(twins):
    twins.lost("usb")
    twins.submit()
    twins.lease("a1", "job/0", "tcp")
    twins.ready("usb", session="s")
    assert free(twins) == {"other"}
    assert twins.device("usb").same_as == "tcp"
    twins.finished("a1")
    assert free(twins) == {"usb", "other"}


def test_a_second_link_does_not_discard_what_the_first_one_waits_for(farm):
    farm.ready("tcp", session="s")
    farm.submit()
    farm.lease("a1", "job/0", "tcp")
    commands = farm.ready("usb", session="s", held=[("a1", 1, "running"), ("old", 0, "finished")], token=1)
    assert commands == (Acknowledge("usb", "old"),)
    assert farm.attempt("a1").live


def test_another_agent_at_a_place_parts_the_twins(twins):
    twins.ready("usb", session="u")
    assert free(twins) == {"usb", "tcp", "other"}
    assert twins.state.places == {"s": ["tcp"], "t": ["other"], "u": ["usb"]}


def test_a_forgotten_place_leaves_the_phone_to_the_other(twins):
    twins.apply(DeviceForgotten(twins.now, "usb"))
    assert free(twins) == {"tcp", "other"}
    twins.add("usb")
    assert twins.state.places["s"] == ["tcp"]
    twins.ready("usb", session="s")
    assert twins.device("usb").state is DeviceState.READY
    assert twins.device("usb").same_as == "tcp"


def test_logs_of_before_make_no_twins(farm):
    farm.ready("usb")
    farm.ready("tcp")
    assert free(farm) == {"usb", "tcp"}
    assert farm.state.places == {}
