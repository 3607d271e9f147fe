"""Hosts that join, are lost, and come back with their phones."""

import pytest

from mobifarm.controller.core.due import LeaseSettings, due, next_due
from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.errors import Bug

SETTINGS = LeaseSettings(lost_grace_s=30.0, attempt_limit_s=900.0, host_grace_s=5.0, rejoin_grace_s=60.0)


@pytest.fixture
def hub(farm):
    """A farm with one phone of its own and one of the host hub, which has the trial job/0 as attempt a1."""
    farm.ready("p1")
    farm.join()
    farm.add("hub/p2", "hub")
    farm.ready("hub/p2")
    farm.submit(trials=2)
    farm.lease(place="hub/p2")
    return farm


def test_a_lost_host_takes_its_phones_and_no_others(hub):
    hub.lose_host(reason="it does not answer")
    assert (hub.device("hub/p2").state, hub.device("hub/p2").reason) == ("lost", "it does not answer")
    assert hub.device("p1").state == "ready"
    assert hub.attempt().lost_at == hub.now


def test_leases_of_a_lost_host_end_by_the_hosts_grace_not_by_the_cables(hub):
    hub.lose_host()
    assert next_due(hub.state, hub.now, SETTINGS) == hub.now + 5.0
    (expired,) = due(hub.state, hub.now + 5.0, SETTINGS)
    assert expired.reason == "the phone was away for 5 s (it does not answer)"
    hub.apply(expired)
    assert hub.trial().state == "pending"
    assert hub.device("hub/p2").consecutive_failures == 0


def test_a_cable_pulled_before_the_host_was_lost_does_not_wait_longer(hub):
    hub.lost("hub/p2")
    hub.now += 28.0
    hub.lose_host()
    assert next_due(hub.state, hub.now, SETTINGS) == hub.now + 2.0


def test_a_host_that_is_back_in_time_resumes_its_leases(hub):
    hub.lose_host()
    hub.now += 4.0
    hub.join()
    assert next_due(hub.state, hub.now, SETTINGS) == hub.now + 26.0
    (dispatch,) = hub.ready("hub/p2", held=[("a1", 1, "finished")], token=1)
    assert (dispatch.device_id, dispatch.attempt_id) == ("hub/p2", "a1")
    assert hub.attempt().lost_at is None


def test_after_a_restart_of_the_controller_a_host_is_waited_for_longer(hub):
    hub.start()
    assert hub.state.hosts["hub"].state == "expected"
    assert next_due(hub.state, hub.now, SETTINGS) == hub.now + 60.0


def test_news_of_a_phone_that_was_on_its_way_when_the_host_was_given_up_is_ignored(hub):
    hub.lose_host()
    hub.ready("hub/p2")
    hub.change("hub/p2", DeviceState.PROVISIONING)
    assert hub.device("hub/p2").state == "lost"


def test_a_host_that_joins_begins_with_no_phone_connected(hub):
    hub.join()
    assert hub.device("hub/p2").state == "lost"
    assert hub.state.hosts["hub"].versions == {"mobifarm": "1"}


def test_only_hosts_that_have_joined_can_be_lost_or_own_phones(farm):
    with pytest.raises(Bug):
        farm.lose_host("nobody")
    with pytest.raises(Bug):
        farm.add("nobody/p1", "nobody")
    assert not farm.state.devices
