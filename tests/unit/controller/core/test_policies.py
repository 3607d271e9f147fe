"""What each policy and each placement adds. What holds of all of them is in store/test_histories.py."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobifarm.controller.core.conditions import Conditions
from mobifarm.controller.core.events import DeviceConditions
from mobifarm.controller.core.policies import POLICIES, policy_named
from mobifarm.controller.core.policies.fair_share import FairSharePolicy, shares
from mobifarm.controller.core.policies.thermal import ThermalPolicy, forecast
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.errors import UserError

SPREAD = DeviceSelector(placement="spread")


def assigned(farm, policy="fifo"):
    return [(pair.trial_id, pair.device_id) for pair in policy_named(policy).assign(farm.state, farm.now)]


class Work:
    """Leases what the policy proposes and ends leases when their time has come."""

    def __init__(self, farm, policy):
        self.farm = farm
        self.policy = policy
        self.leases = 0
        self.users = Counter()  # leases by user

    def grant(self):
        for pair in self.policy.assign(self.farm.state, self.farm.now):
            self.leases += 1
            self.farm.lease(f"a{self.leases}", pair.trial_id, pair.device_id)
            self.users[self.farm.state.jobs[self.farm.trial(pair.trial_id).job_id].user] += 1

    def run(self, rounds, seconds=lambda lease: 10.0):
        """Each round grants, then lets the leases end that have lasted for long enough."""
        for _ in range(rounds):
            self.grant()
            leases = list(self.farm.state.leases.values())
            if not leases:
                return
            ends = {lease.attempt_id: lease.granted_at + seconds(lease) for lease in leases}
            self.farm.now = max(self.farm.now, min(ends.values()))
            for attempt_id, end in ends.items():
                if end <= self.farm.now:
                    self.farm.finished(attempt_id)


def test_every_policy_has_its_name_and_others_are_refused():
    assert {policy_named(name).name for name in POLICIES} == set(POLICIES)
    with pytest.raises(UserError, match="choose fifo, fair-share"):
        policy_named("round-robin")


# Fair share


@given(
    phones=st.integers(1, 4),
    jobs=st.lists(st.sampled_from(["ann", "bob"]), min_size=1, max_size=5),
    ann_s=st.sampled_from([5.0, 20.0]),
)
@settings(max_examples=8)
def test_users_get_equal_shares_however_many_jobs_they_submit(farm_of, phones, jobs, ann_s):
    farm = farm_of(phones)
    for number, user in enumerate([*jobs, "ann", "bob"]):
        farm.submit(f"job{number}", trials=60, user=user, priority=number % 3)
    work = Work(farm, FairSharePolicy())
    work.run(12, lambda lease: ann_s if farm.state.jobs[lease.job_id].user == "ann" else 10.0)
    used = shares(farm.state, farm.now)
    # They differ by no more than what the phones can be busy with at one moment.
    assert abs(used["ann"] - used["bob"]) <= phones * max(ann_s, 10.0) + 1e-6


@given(greedy=st.integers(1, 6))
@settings(max_examples=4)
def test_nobody_starves_beside_a_user_with_higher_priorities(farm_of, greedy):
    farm = farm_of(1)
    for number in range(greedy):
        farm.submit(f"greedy{number}", trials=50, user="greedy", priority=100)
    farm.submit("modest", trials=20, user="modest", priority=-100)
    work = Work(farm, FairSharePolicy())
    work.run(10)
    assert work.users["modest"] >= 4


def test_one_round_is_shared_as_well(farm_of):
    farm = farm_of(4)
    farm.submit("first", trials=10, user="ann")
    farm.submit("second", trials=10, user="bob")
    pairs = assigned(farm, "fair-share")
    assert Counter(trial.split("/")[0] for trial, _ in pairs) == {"first": 2, "second": 2}
    assert [trial for trial, _ in assigned(farm)] == [f"first/{number}" for number in range(4)]


def test_what_was_used_long_ago_counts_less(farm_of):
    farm = farm_of(1)
    farm.submit("old", user="ann")
    farm.lease("a", "old/0", "p0")
    farm.now += 1000
    farm.finished("a")
    assert shares(farm.state, farm.now) == {"ann": 1000.0}
    assert shares(farm.state, farm.now + 86_400) == {"ann": pytest.approx(500.0)}


# Shortest queue


def test_work_that_any_phone_can_do_leaves_the_sought_after_phone_alone(farm):
    farm.ready("a", serial="scarce")
    farm.ready("b")
    farm.submit("anything", trials=1, priority=1)
    farm.submit("picky", trials=3, selector=DeviceSelector(serials=("scarce",)))
    assert assigned(farm, "fifo") == [("anything/0", "a")]
    assert assigned(farm, "shortest-queue") == [("anything/0", "b"), ("picky/0", "a")]


# Thermal


def heat(farm, place, celsius, idle=True):
    farm.apply(DeviceConditions(farm.now, place, Conditions(temperature_celsius=celsius)))


def let_cool(farm, place, start, settles, rate):
    """Readings of a phone that cools down without work."""
    temperature = start
    for _ in range(20):
        heat(farm, place, temperature)
        farm.now += 20.0
        temperature = settles + (temperature - settles) * (1 - rate)
    heat(farm, place, temperature)


def test_work_goes_to_the_phone_that_is_cool_soonest(farm_of):
    farm = farm_of(3)
    for place, celsius in (("p0", 38.0), ("p1", 33.0), ("p2", 36.0)):
        heat(farm, place, celsius)
    farm.submit(trials=3)
    assert [place for _, place in assigned(farm, "thermal")] == ["p1", "p2", "p0"]


def test_of_two_equally_warm_phones_the_one_that_cools_faster_comes_first(farm_of):
    farm = farm_of(2)
    start = farm.now
    let_cool(farm, "p0", 45.0, 25.0, 0.02)
    farm.now = start
    let_cool(farm, "p1", 45.0, 25.0, 0.10)
    for place in ("p0", "p1"):
        heat(farm, place, 40.0)
    farm.submit()
    assert assigned(farm, "thermal") == [("job/0", "p1")]
    slow, fast = (forecast(farm.device(place), farm.now, 0.0)[0] for place in ("p0", "p1"))
    assert slow > 3 * fast


def test_a_phone_without_a_thermometer_comes_last_and_still_works(farm_of):
    farm = farm_of(2)
    heat(farm, "p1", 60.0)
    farm.submit(trials=2)
    pairs = ThermalPolicy().assign(farm.state, farm.now)
    assert [pair.device_id for pair in pairs] == ["p1", "p0"]


# Placements


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_spread_gives_every_phone_the_same_however_fast_it_is(farm_of, policy):
    farm = farm_of(3)
    farm.submit(trials=31, selector=SPREAD)
    Work(farm, policy_named(policy)).run(200, lambda lease: 1.0 if lease.device_id == "p0" else 7.0)
    assert sorted(farm.state.jobs["job"].shares.values()) == [10, 10, 11]


def test_a_spread_trial_that_failed_on_the_phone_with_the_fewest_goes_to_another(farm_of):
    farm = farm_of(2)
    farm.submit(trials=2, selector=SPREAD)
    farm.lease("a1", "job/0", "p0")
    farm.lease("a2", "job/1", "p1")
    farm.finished("a2")
    farm.broke("a1")
    farm.now += 5
    assert assigned(farm) == [("job/0", "p1")]


def test_a_lost_phone_is_not_waited_for_by_a_spread_job(farm_of):
    farm = farm_of(2)
    farm.submit(trials=6, selector=SPREAD)
    farm.lost("p1")
    Work(farm, policy_named("fifo")).run(20)
    assert farm.state.jobs["job"].shares == {"p0": 6}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_group_stays_on_its_phone(farm_of, policy):
    farm = farm_of(3)
    farm.submit(trials=30, groups=("r1", "r2", "r3", "r4", "r5"))
    Work(farm, policy_named(policy)).run(200, lambda lease: 1.0 + int(lease.device_id[1]))
    places = {}
    for trial in farm.state.trials.values():
        places.setdefault(trial.group, set()).add(farm.attempt(trial.result_attempt_id).device_id)
    assert all(len(phones) == 1 for phones in places.values())
    assert len(set.union(*places.values())) == 3


def test_a_whole_job_stays_on_one_phone(farm_of):
    farm = farm_of(3)
    farm.submit(trials=5, groups=("all",))
    assert len(assigned(farm)) == 1
    Work(farm, policy_named("fifo")).run(20)
    assert list(farm.state.jobs["job"].shares.values()) == [5]


def test_a_group_without_a_result_may_still_move(farm_of):
    farm = farm_of(2)
    farm.submit(trials=2, groups=("all",))
    farm.lease("a1", "job/0", "p0")
    farm.broke("a1")
    farm.now += 5
    assert ("job/0", "p1") in assigned(farm)


def test_a_group_keeps_its_order_when_a_trial_backs_off(farm_of):
    farm = farm_of(1)
    farm.submit(trials=3, groups=("block",))
    farm.lease("a1", "job/0", "p0")
    farm.broke("a1")
    assert assigned(farm) == []
    farm.now += 5
    assert assigned(farm) == [("job/0", "p0")]


def test_a_group_with_a_result_waits_for_its_phone(farm_of):
    farm = farm_of(2)
    farm.submit(trials=2, groups=("all",))
    farm.lease("a1", "job/0", "p0")
    farm.finished("a1")
    farm.lost("p0")
    assert assigned(farm) == []
    farm.ready("p0")
    assert assigned(farm) == [("job/1", "p0")]
    farm.lost("p0")
    farm.ready("p0", fingerprint="a new system")
    assert assigned(farm) == []
