"""One round of decisions: who is free, who may do what, and the pairs that follow. What policies share.

A policy chooses the order of the jobs and the rank of the phones; here is everything that makes a pair valid:
selectors, methods, gates, counts, placements, back-off, and that a trial avoids a phone which failed it.

Jobs that may start on the same phones share a lane, and a lane only ever loses phones during a round. So a
round costs about one look at every phone per lane and one at every trial that is placed, not their product.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import Any

from mobifarm.controller.core.gates import closed_gates
from mobifarm.controller.core.policies.base import Assignment
from mobifarm.controller.core.selector import COMPUTER, DeviceSelector
from mobifarm.controller.core.state import Device, FarmState, Job, Trial

Rank = Callable[[Device], Any]


class Matches:
    """Which phones a selector accepts, remembered from round to round; a phone that changes is asked anew."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], dict[str, tuple[object, bool]]] = {}
        self._asked: set[tuple[object, ...]] = set()

    def among(self, selector: DeviceSelector, devices: Iterable[Device]) -> list[Device]:
        """Those of the devices that the selector accepts, in their order."""
        signature = selector.signature
        self._asked.add(signature)
        known = self._known.setdefault(signature, {})
        accepted = []
        for device in devices:
            # Whatever a selector looks at is derived into a new mapping whenever the phone changes.
            asked, accepts = known.get(device.device_id, (None, False))
            if asked is not device.attributes:
                accepts = not selector.mismatches(device)
                known[device.device_id] = (device.attributes, accepts)
            if accepts:
                accepted.append(device)
        return accepted

    def begin_round(self) -> None:
        """Forget selectors that were not asked for in the last round in which any was."""
        if self._asked and len(self._known) > len(self._asked):
            self._known = {
                signature: known for signature, known in self._known.items() if signature in self._asked
            }
        self._asked.clear()


class Lane:
    """The phones that may start trials of one method for jobs with the same wishes, best first."""

    def __init__(self, free: list[Device], able: Callable[[], list[Device]], taken: set[str]) -> None:
        self._free = free
        self._able = able
        self._first = 0
        self._taken = taken
        self.members = {device.device_id for device in free}

    @cached_property
    def able(self) -> dict[str, Device]:
        """The phones that are usable now or later, gates aside; found when first asked for."""
        return {device.device_id: device for device in self._able()}

    def free(self) -> Iterator[Device]:
        """The phones that are free still, best first."""
        if self.empty:
            return
        for index in range(self._first, len(self._free)):
            if self._free[index].device_id not in self._taken:
                yield self._free[index]

    def is_free(self, device_id: str) -> bool:
        return device_id in self.members and device_id not in self._taken

    @property
    def empty(self) -> bool:
        while self._first < len(self._free) and self._free[self._first].device_id in self._taken:
            self._first += 1
        return self._first == len(self._free)


class Round:
    """What one decision looks at, indexed once.

    Args:
        rank: orders the free phones, smallest first; it must tell any two apart.
    """

    def __init__(self, state: FarmState, now: float, rank: Rank, matches: Matches) -> None:
        matches.begin_round()
        self._state = state
        self._now = now
        self._matches = matches
        ordered = sorted((device for device in state.devices.values() if device.free), key=rank)
        self.free = {device.device_id: device for device in ordered}
        self.waiting = list(state.waiting.values())
        self._taken: set[str] = set()
        self._lanes: dict[tuple[int, str], Lane] = {}

    def pairs(self, job: Job) -> Iterator[Assignment]:
        """Pairs for the job's startable trials, in the order of the job; each is taken when it is yielded."""
        lanes = {method: self.lane(job, method) for method, positions in job.pending.items() if positions}
        if all(lane.empty for lane in lanes.values()):
            return
        choose = self._chooser(job)
        late: set[str] = set()  # groups with a trial that cannot start now: none of theirs may overtake it
        left = None if job.selector.count is None else job.selector.count - self._working[job.job_id]
        for position in heapq.merge(*(job.pending[method] for method in lanes)):
            trial = self._state.trials[job.trial_ids[position]]
            lane = lanes.get(trial.method)
            if trial.not_before > self._now:
                late.add(trial.group)
                continue
            if trial.group and trial.group in late:
                continue
            if lane is None or lane.empty:
                late.add(trial.group)
                lanes.pop(trial.method, None)
                if not lanes:
                    return
                continue
            device = choose(trial, lane, left is None or left > 0)
            if device is None:
                continue
            if device.execution != COMPUTER and left is not None:
                left -= 1
            self._taken.add(device.device_id)
            del self.free[device.device_id]
            yield Assignment(trial.trial_id, device.device_id)

    def lane(self, job: Job, method: str) -> Lane:
        key = (job.lane, method)
        lane = self._lanes.get(key)
        if lane is None:
            able = partial(self._able, job.selector, method)
            free = [
                device
                for device in able(self.free.values())
                if not closed_gates(job.gates, device, self._now)
            ]
            lane = self._lanes[key] = Lane(free, lambda: able(self._usable), self._taken)
        return lane

    def _able(self, selector: DeviceSelector, method: str, devices: Iterable[Device]) -> list[Device]:
        return [device for device in self._matches.among(selector, devices) if device.supports(method)]

    @cached_property
    def _usable(self) -> list[Device]:
        return [device for device in self._state.devices.values() if device.usable]

    @cached_property
    def _working(self) -> Counter[str]:
        """How many phones work for each job."""
        leases = self._state.leases.values()
        return Counter(lease.job_id for lease in leases if lease.execution != COMPUTER)

    def _chooser(self, job: Job) -> Callable[[Trial, Lane, bool], Device | None]:
        """Which phone a trial gets. The last argument: whether phones may be taken, or only the computer."""
        if job.selector.placement == "spread":
            choose = _Spread(self._state, job, self._now).choose
        else:
            choose = partial(first, self._state)
        return _Groups(job, choose).choose


def by_priority(jobs: list[Job]) -> list[Job]:
    """Higher priorities first, then in the order of submission."""
    return sorted(jobs, key=lambda job: (-job.priority, job.sequence))


def avoided_by(state: FarmState, trial: Trial) -> set[str]:
    """The phones on which an attempt of the trial broke or expired."""
    return {state.attempts[attempt_id].device_id for attempt_id in trial.attempt_ids}


def first(state: FarmState, trial: Trial, lane: Lane, phones: bool) -> Device | None:
    """The best free phone that has not failed the trial; one that has, where no other could do it.

    Args:
        phones: whether phones may be taken, or only the computer.
    """
    free = (device for device in lane.free() if phones or device.execution == COMPUTER)
    if not trial.attempt_ids:
        return next(free, None)
    avoided = avoided_by(state, trial)
    if len(lane.able) > sum(device_id in lane.able for device_id in avoided):
        free = (device for device in free if device.device_id not in avoided)
    return next(free, None)


class _Groups:
    """All trials of a group go, one after the other and in their order, where its first one went."""

    def __init__(self, job: Job, choose: Callable[[Trial, Lane, bool], Device | None]) -> None:
        self._homes = job.homes
        self._choose = choose
        self._seen: set[str] = set()  # groups whose next trial has had its turn in this round

    def choose(self, trial: Trial, lane: Lane, phones: bool) -> Device | None:
        if not trial.group:
            return self._choose(trial, lane, phones)
        if trial.group in self._seen:
            return None
        home = self._homes.get(trial.group)
        if home is None:
            device = self._choose(trial, lane, phones)
        else:
            device = lane.able.get(home.device_id) if phones and lane.is_free(home.device_id) else None
            if device is not None and device.measurement_epoch != home.measurement_epoch:
                device = None  # another phone, or another system, is there now
        if device is None or device.execution != COMPUTER:
            self._seen.add(trial.group)
        return device


class _Spread:
    """A phone gets no trial while another one of the lane has had fewer.

    Phones that a gate holds back without an end in sight (a screen that is on, an unknown sensor) are not
    waited for; warm and empty ones are.
    """

    def __init__(self, state: FarmState, job: Job, now: float) -> None:
        self._state = state
        self._job = job
        self._now = now
        self._shares = defaultdict(int, job.shares)
        self._levels: dict[int, _Levels] = {}

    def choose(self, trial: Trial, lane: Lane, phones: bool) -> Device | None:
        levels = self._levels.get(id(lane))
        if levels is None:
            levels = self._levels[id(lane)] = _Levels(self._counted(lane), lane, self._shares)
        chosen = None
        if phones:
            avoided = avoided_by(self._state, trial) if trial.attempt_ids else set()
            chosen = levels.least(avoided)
        if chosen is None:
            return next((device for device in lane.free() if device.execution == COMPUTER), None)
        for each in self._levels.values():
            each.raise_(chosen.device_id)
        self._shares[chosen.device_id] += 1
        return chosen

    def _counted(self, lane: Lane) -> list[str]:
        return [
            device_id
            for device_id, device in lane.able.items()
            if device.execution != COMPUTER
            and all(held.passes_by_itself for held in closed_gates(self._job.gates, device, self._now))
        ]


class _Levels:
    """How many trials each phone of a lane has had, and which free phone has had the fewest."""

    def __init__(self, counted: list[str], lane: Lane, shares: dict[str, int]) -> None:
        self._lane = lane
        self._shares = {device_id: shares[device_id] for device_id in counted}
        self._phones_at = Counter(self._shares.values())
        self._lowest = min(self._phones_at, default=0)
        # Phones of equal share keep the lane's order. Shares change only by taking, and who is taken is gone.
        ranked = enumerate(device for device in lane.free() if device.execution != COMPUTER)
        self._waiting = deque(sorted(ranked, key=lambda entry: (shares[entry[1].device_id], entry[0])))

    def least(self, avoided: set[str]) -> Device | None:
        if avoided:
            return self._least_without(avoided)
        while self._waiting and not self._lane.is_free(self._waiting[0][1].device_id):
            self._waiting.popleft()
        if not self._waiting:
            return None
        best = self._waiting[0][1]
        return best if self._shares.get(best.device_id, 0) <= self._lowest else None

    def _least_without(self, avoided: set[str]) -> Device | None:
        """As above for a trial that failed on some phones: the others matter, if there are any."""
        counted = {name: share for name, share in self._shares.items() if name not in avoided} or self._shares
        lowest = min(counted.values(), default=0)
        for _, device in self._waiting:
            name = device.device_id
            if name in counted and counted[name] <= lowest and self._lane.is_free(name):
                return device
        return None

    def raise_(self, device_id: str) -> None:
        """The phone has one trial more."""
        if device_id not in self._shares:
            return
        before = self._shares[device_id]
        self._shares[device_id] = before + 1
        self._phones_at[before] -= 1
        self._phones_at[before + 1] += 1
        while not self._phones_at[self._lowest]:
            self._lowest += 1
