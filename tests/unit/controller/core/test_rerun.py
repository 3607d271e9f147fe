"""A recorded day under other policies: the same work, never a phone too many, and honest about durations."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobifarm.controller.core.check import check
from mobifarm.controller.core.day import percentile, sum_up
from mobifarm.controller.core.due import LeaseSettings
from mobifarm.controller.core.durations import Durations
from mobifarm.controller.core.events import decode, encode
from mobifarm.controller.core.policies import POLICIES, policy_named
from mobifarm.controller.core.rerun import decisions, rerun
from mobifarm.controller.core.step import replay

LEASES = LeaseSettings(lost_grace_s=30.0, attempt_limit_s=600.0)


@pytest.fixture(scope="session")
def recorded_day(farm_of):
    """Records what a farm does under a policy; every phone has its own speed."""

    def record(policy, phones=3, jobs=(("ann", 6), ("bob", 3)), unplug=False):
        farm = farm_of(0)
        log = []
        apply = farm.apply

        def note(event):
            log.append(event)
            return apply(event)

        farm.apply = note
        farm.start()
        for number in range(phones):
            farm.ready(f"p{number}")
        for number, (user, trials) in enumerate(jobs):
            farm.submit(f"job{number}", trials=trials, user=user)
        chosen, leases, ends = policy_named(policy), 0, {}
        for turn in range(200):
            for pair in chosen.assign(farm.state, farm.now):
                leases += 1
                farm.lease(f"a{leases}", pair.trial_id, pair.device_id)
                ends[f"a{leases}"] = farm.now + (10.0, 21.3, 33.7)[int(pair.device_id[1])]
            if unplug and turn == 1:
                farm.lost("p0")
                farm.now += 1.0
                farm.ready("p0")
            if not ends:
                break
            attempt = min(ends, key=ends.get)
            farm.now = max(farm.now, ends.pop(attempt))
            farm.finished(attempt)
        return [decode(json.loads(json.dumps(encode(event)))) for event in log]

    return record


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_recorded_policy_leads_to_the_recorded_day(recorded_day, policy):
    log = recorded_day(policy)
    again = rerun(log, policy_named(policy), LEASES)
    assert set(again.durations) == {"measured"}
    happened, would = sum_up(replay(log), policy), sum_up(again.state, policy)
    assert happened == would
    same, rounds = decisions(log, policy_named(policy))
    assert same == rounds > 0


@given(
    policy=st.sampled_from(sorted(POLICIES)),
    other=st.sampled_from(sorted(POLICIES)),
    phones=st.integers(1, 3),
    trials=st.integers(1, 8),
    unplug=st.booleans(),
)
@settings(max_examples=15)
def test_another_policy_does_the_same_work(recorded_day, policy, other, phones, trials, unplug):
    log = recorded_day(policy, phones, (("ann", trials), ("bob", 4)), unplug)
    again = rerun(log, policy_named(other), LEASES)
    check(again.state)
    assert sum_up(again.state, other).with_result == trials + 4
    assert sum(again.durations.values()) == len(again.state.attempts)
    assert rerun(log, policy_named(other), LEASES) == again


def test_a_result_waits_on_a_phone_that_is_away(recorded_day):
    log = recorded_day("fifo", phones=1, unplug=True)
    assert sum_up(rerun(log, policy_named("fifo"), LEASES).state, "fifo").with_result == 9


def test_fair_share_would_have_helped_the_small_job(recorded_day):
    log = recorded_day("fifo", phones=1, jobs=(("ann", 10), ("bob", 2)))
    waits = {}
    for policy in ("fifo", "fair-share"):
        day = sum_up(rerun(log, policy_named(policy), LEASES).state, policy)
        waits[policy] = {user.user: user.mean_waiting_s for user in day.users}
    assert waits["fair-share"]["bob"] < waits["fifo"]["bob"] / 2
    assert waits["fair-share"]["ann"] > waits["fifo"]["ann"]


def test_durations_say_where_they_come_from(recorded_day):
    state = replay(recorded_day("fifo", phones=2, jobs=(("ann", 8),)))
    durations = Durations(state)
    trial = state.trials["job0/0"]
    measured = state.attempts[trial.result_attempt_id].device_id
    other = "p1" if measured == "p0" else "p0"
    factor = 2.13 if other == "p1" else 1 / 2.13
    assert durations.of(trial, measured) * factor == pytest.approx(durations.of(trial, other))
    assert dict(durations.used) == {"measured": 1, "scaled": 1}


def test_a_log_without_results_is_assumed(farm):
    farm.ready("p1")
    farm.submit()
    durations = Durations(farm.state)
    assert durations.of(farm.trial(), "p1") == 60.0
    assert dict(durations.used) == {"assumed": 1}


def test_percentiles_are_values_that_occurred():
    assert percentile([], 0.95) is None
    assert percentile([3.0, 1.0, 2.0], 0.95) == 3.0
    assert percentile([float(number) for number in range(1, 101)], 0.95) == 95.0
