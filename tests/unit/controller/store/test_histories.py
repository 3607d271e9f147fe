"""Any history of a farm: phones that come and go, late and doubled news, lost commands, restarts."""

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mobifarm.controller.core.check import check
from mobifarm.controller.core.commands import Acknowledge, CancelAttempt, CheckHealth, Dispatch
from mobifarm.controller.core.conditions import NO_GATES, Conditions, Gates
from mobifarm.controller.core.due import LeaseSettings, due, next_due
from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    ControllerStarted,
    DeviceAdded,
    DeviceConditions,
    DeviceDrained,
    DeviceForgotten,
    DeviceLost,
    DeviceQuarantined,
    DeviceReady,
    DeviceReleased,
    DeviceState,
    DeviceStateChanged,
    DeviceTagged,
    DeviceUndrained,
    HealthChecked,
    HeldAttempt,
    HostJoined,
    HostLost,
    Identity,
    JobCancelled,
    JobSubmitted,
    LeaseGranted,
    RecoveryStep,
    TrialPlan,
    decode,
    encode,
    without_bulk,
)
from mobifarm.controller.core.gates import closed_gates
from mobifarm.controller.core.holds import holds
from mobifarm.controller.core.policies import POLICIES, policy_named
from mobifarm.controller.core.policies.round import Matches
from mobifarm.controller.core.selector import DeviceSelector
from mobifarm.controller.core.state import DELIVERED, FarmState, HostState, TrialState, take_changes
from mobifarm.controller.core.step import replay, step
from mobifarm.controller.core.views import attempt_view, device_view, job_view, trial_view
from mobifarm.controller.core.why import why
from mobifarm.controller.store.read import StoreReader
from mobifarm.controller.store.sqlite import SqliteStore

LEASES = LeaseSettings(lost_grace_s=30.0, attempt_limit_s=300.0)
PLACES = ("p1", "p2", "p3", "hub/p4")
TWINS = PLACES[1:3]  # lead to one phone in every other history
HUB = "hub"  # has joined the farm and owns the last place
SELECTORS = (
    DeviceSelector(),
    DeviceSelector(where=("tag == bench",)),
    DeviceSelector(count=1),
    DeviceSelector(placement="spread"),
)
GATES = (NO_GATES, Gates(max_temperature_celsius=40.0), Gates(min_battery=0.2, unknown="refuse"))
USERS = ("ann", "bob")
OPERATIONS = (
    "forget",
    "quarantine",
    "quarantine for good",
    "quarantine until it passes",
    "release",
    "release",
    "drain",
    "undrain",
)
ENDED = {TrialState.DONE, TrialState.FAILED, TrialState.ABANDONED, TrialState.CANCELLED}


@dataclass
class Phone:
    """A phone as the contract has it: it keeps attempts until acknowledged and refuses old tokens."""

    serial: str
    linked: bool = False
    held: dict = field(default_factory=dict)  # attempt id -> [token, finished]
    highest_token: int = 0
    followed: set = field(default_factory=set)  # attempts whose stream is open


def check_one_edit_per_phone(state):
    """Of all places of one phone at most one is free, and none while another has a lease."""
    for places in state.places.values():
        ready = [place for place in places if state.devices[place].free]
        assert len(ready) <= 1
        assert not ready or all(state.devices[place].attempt_id is None for place in places)


def check_proposals(state, proposals, now, work_conserving):
    """Every pair could be leased, all of them together, and nobody idles without need."""
    assert len({pair.trial_id for pair in proposals}) == len(proposals)
    assert len({pair.device_id for pair in proposals}) == len(proposals)
    working = {}
    for lease in state.leases.values():
        working[lease.job_id] = working.get(lease.job_id, 0) + 1
    for pair in proposals:
        trial, device = state.trials[pair.trial_id], state.devices[pair.device_id]
        assert may_start(state, trial, device, now), pair
        job = state.jobs[trial.job_id]
        working[job.job_id] = working.get(job.job_id, 0) + 1
        assert job.selector.count is None or working[job.job_id] <= job.selector.count
        home = job.homes.get(trial.group)
        if home is not None:
            assert (home.device_id, home.measurement_epoch) == (device.device_id, device.measurement_epoch)
    if work_conserving:
        pairs = {pair.trial_id for pair in proposals}, {pair.device_id for pair in proposals}
        for trial in state.trials.values():
            selector = state.jobs[trial.job_id].selector
            if (
                trial.trial_id in pairs[0]
                or trial.attempt_ids
                or trial.group
                or selector != DeviceSelector(where=selector.where)
            ):
                continue
            for device in state.devices.values():
                assert device.device_id in pairs[1] or not may_start(state, trial, device, now)


def may_start(state, trial, device, now):
    job = state.jobs[trial.job_id]
    return (
        trial.state is TrialState.PENDING
        and trial.not_before <= now
        and device.free
        and device.supports(trial.method)
        and not job.selector.mismatches(device)
        and not closed_gates(job.gates, device, now)
    )


def rows_of(state, ids):
    """The rows of these devices, jobs, trials and attempts: of the changes, or of the state itself."""
    rows = {("device", place): device_view(state, place) for place in ids.devices}
    rows |= {("job", job): job_view(state, job) for job in ids.jobs}
    rows |= {("trial", trial): trial_view(state, trial) for trial in ids.trials}
    rows |= {("attempt", attempt): attempt_view(state, attempt) for attempt in ids.attempts}
    return rows


class Histories(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.state = FarmState()
        self.log = []
        self.phones = {}
        self.commands = {place: [] for place in PLACES}
        self.mail = []  # events that have left a phone and not yet arrived
        self.rows = {}  # kept up from the changes alone
        self.accepted = {}  # trial -> the attempt whose result was taken
        self.attempts = 0
        self.epoch = 0
        self.policy = policy_named("fifo")
        self.twins = False
        self.start()

    # The controller

    def apply(self, event):
        counts = self.counts(event)
        self.state, commands = step(self.state, event)
        self.log.append(event)
        self.rows.update(rows_of(self.state, take_changes(self.state)))
        for command in commands:
            self.commands[command.device_id].append(command)
        if counts:
            trial_id = self.state.attempts[event.attempt_id].trial_id
            assert trial_id not in self.accepted, "a second result was taken"
            self.accepted[trial_id] = event.attempt_id

    def counts(self, event):
        """The fence, said once more: only a live lease with this token on this phone delivers a result."""
        if not isinstance(event, AttemptFinished):
            return False
        lease = self.state.leases.get(event.attempt_id)
        return (
            lease is not None
            and lease.fencing_token == event.fencing_token
            and lease.device_id == event.device_id
        )

    def start(self):
        self.epoch += 1
        self.apply(ControllerStarted(self.now, self.epoch))

    @initialize(
        trials=st.integers(0, 4),
        limit=st.integers(1, 4),
        policy=st.sampled_from(sorted(POLICIES)),
        twins=st.booleans(),
    )
    def begin(self, trials, limit, policy, twins):
        self.policy, self.twins = policy_named(policy), twins
        for place in PLACES[:2]:
            self.plug_in(place)
        if trials:
            self.submit(trials, limit, 0, DeviceSelector(), NO_GATES, "ann")
            self.schedule()

    @rule()
    def kill_the_controller(self):
        """Commands and news under way are lost; the log is not."""
        self.state = replay(decode(json.loads(json.dumps(encode(without_bulk(event))))) for event in self.log)
        self.mail.clear()
        for place in PLACES:
            self.commands[place].clear()
        for phone in self.phones.values():
            phone.linked = False
            phone.followed.clear()
        self.start()

    @rule(
        trials=st.integers(1, 4),
        limit=st.integers(1, 4),
        priority=st.integers(0, 1),
        selector=st.sampled_from(SELECTORS),
        gates=st.sampled_from(GATES),
        user=st.sampled_from(USERS),
        groups=st.sampled_from([("",), ("all",), ("", "one"), ("one", "two")]),
    )
    def submit(self, trials, limit, priority, selector, gates, user, groups=("",)):
        job = f"job{len(self.state.jobs)}"
        plans = tuple(
            TrialPlan(f"{job}/{n}", f"{n}", {"n": n}, group=groups[n % len(groups)]) for n in range(trials)
        )
        self.apply(
            JobSubmitted(self.now, job, job, user, {"job": job}, plans, selector, priority, limit, gates)
        )

    @precondition(lambda self: self.state.jobs)
    @rule(data=st.data())
    def cancel(self, data):
        self.apply(JobCancelled(self.now, data.draw(st.sampled_from(sorted(self.state.jobs)))))

    @rule()
    def schedule(self):
        proposals = self.policy.assign(self.state, self.now)
        assert proposals == policy_named(self.policy.name).assign(self.state, self.now), (
            "it remembers too much"
        )
        check_proposals(self.state, proposals, self.now, self.policy.work_conserving)
        for assignment in proposals:
            self.attempts += 1
            self.apply(
                LeaseGranted(
                    self.now,
                    f"a{self.attempts}",
                    assignment.trial_id,
                    assignment.device_id,
                    self.state.next_fencing_token,
                )
            )
        for change in holds(self.state, self.now, Matches()):
            self.apply(change)
        assert holds(self.state, self.now, Matches()) == []

    @precondition(lambda self: self.state.jobs)
    @rule(data=st.data())
    def ask_why(self, data):
        job = self.state.jobs[data.draw(st.sampled_from(sorted(self.state.jobs)))]
        answer = why(self.state, self.policy, job.job_id, self.now)
        assert json.loads(json.dumps(asdict(answer)))
        assert answer.waiting == job.counts[TrialState.PENDING]
        assert answer.summary
        known = {each.device_id for each in (*answer.phones, *answer.nearest)}
        assert not answer.waiting or known == {place for place in self.state.devices if self.known(place)}

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0, 400.0]))
    def pass_time(self, seconds):
        self.now += seconds
        for event in due(self.state, self.now, LEASES):
            self.apply(event)

    # Operators

    def known(self, place):
        device = self.state.devices.get(place)
        return device is not None and device.stage is not DeviceState.RETIRED

    @rule(place=st.sampled_from(PLACES), what=st.sampled_from(OPERATIONS))
    def operate(self, place, what):
        if not self.known(place):
            return
        match what:
            case "forget":
                self.apply(DeviceForgotten(self.now, place))
                self.phones[place].linked = False
            case "quarantine":
                self.apply(DeviceStateChanged(self.now, place, DeviceState.QUARANTINED, "odd", "look"))
            case "quarantine for good":
                self.apply(DeviceQuarantined(self.now, place, "odd", "look", by_person=True))
            case "quarantine until it passes":
                self.apply(DeviceQuarantined(self.now, place, "its agent does not start"))
            case "release":
                self.apply(DeviceReleased(self.now, place))
            case "drain":
                self.apply(DeviceDrained(self.now, place, "to be sold"))
            case "undrain":
                self.apply(DeviceUndrained(self.now, place))

    @rule(place=st.sampled_from(PLACES), state=st.sampled_from([DeviceState.COOLING, DeviceState.READY]))
    def pause_or_go_on(self, place, state):
        if place in self.state.devices and self.state.devices[place].connected:
            self.apply(DeviceStateChanged(self.now, place, state))

    @rule(place=st.sampled_from(PLACES), tags=st.sampled_from([(), ("bench",), ("bench", "loud")]))
    def tag(self, place, tags):
        if self.known(place):
            self.apply(DeviceTagged(self.now, place, tags))

    @rule(place=st.sampled_from(PLACES), rung=st.sampled_from(["reconnect", "reboot"]))
    def recover(self, place, rung):
        if self.known(place) and not self.state.devices[place].connected:
            self.apply(RecoveryStep(self.now, place, rung, 1, "it does not answer"))

    # Phones

    @rule(
        place=st.sampled_from(PLACES),
        celsius=st.none() | st.floats(20, 60),
        battery=st.none() | st.floats(0, 1),
    )
    def feel(self, place, celsius, battery):
        if place in self.state.devices:
            self.apply(DeviceConditions(self.now, place, Conditions(celsius, battery)))

    @rule(place=st.sampled_from(PLACES))
    def swap(self, place):
        phone = self.phones.get(place)
        if phone is None or not phone.linked:
            self.phones[place] = Phone(f"serial{len(self.log)}")

    @rule(place=st.sampled_from(PLACES))
    def plug_in(self, place):
        phone = self.phones.setdefault(place, Phone(f"serial-{place}"))
        self.commands[place].clear()  # a new session knows nothing of the commands for the one before
        phone.followed.clear()
        host = HUB if place.startswith(HUB) else ""
        if host and (HUB not in self.state.hosts or self.state.hosts[HUB].state is not HostState.JOINED):
            self.join_host()
        self.apply(DeviceAdded(self.now, place, place, "tcp", host))
        if not self.state.devices[place].connected:
            self.apply(DeviceStateChanged(self.now, place, DeviceState.PROVISIONING))
        phone.linked = True
        self.apply(
            DeviceReady(
                self.now,
                place,
                "host",
                Identity(place, phone.serial, "f"),
                {"ro.product.model": "m"},
                "virtual",
                tuple(
                    HeldAttempt(attempt, token, "finished" if finished else "running")
                    for attempt, (token, finished) in phone.held.items()
                ),
                "1",
                phone.highest_token,
                agent_session="one phone" if self.twins and place in TWINS else place,
            )
        )

    @rule()
    def join_host(self):
        """A host reports all of its phones anew."""
        self.cut_off_the_host()
        self.apply(HostJoined(self.now, HUB, "10.0.0.2", {}))

    @precondition(lambda self: HUB in self.state.hosts)
    @rule()
    def lose_host(self):
        self.cut_off_the_host()
        self.apply(HostLost(self.now, HUB, "it does not answer"))

    def cut_off_the_host(self):
        for place in PLACES:
            if place.startswith(HUB) and place in self.phones:
                self.phones[place].linked = False
                self.phones[place].followed.clear()
                self.commands[place].clear()

    @rule(place=st.sampled_from(PLACES))
    def unplug(self, place):
        if place in self.phones and self.phones[place].linked:
            self.phones[place].linked = False
            self.phones[place].followed.clear()
            self.commands[place].clear()
            self.apply(DeviceLost(self.now, place, "unplugged"))

    @rule(place=st.sampled_from(PLACES))
    def flap(self, place):
        self.unplug(place)
        self.plug_in(place)

    @rule(place=st.sampled_from(PLACES))
    def carry_out(self, place):
        if not self.commands[place]:
            return
        command = self.commands[place].pop(0)
        phone = self.phones.get(place)
        if phone is None or not phone.linked:
            return
        match command:
            case Dispatch(attempt_id=attempt, fencing_token=token):
                if token < phone.highest_token or any(
                    not finished for other, (_, finished) in phone.held.items() if other != attempt
                ):
                    self.mail.append(AttemptFailed(self.now, attempt, token, place, "refused"))
                    return
                phone.highest_token = token
                phone.followed.add(attempt)
                if attempt not in phone.held:
                    phone.held[attempt] = [token, False]
                    self.mail.append(AttemptStarted(self.now, attempt))
                elif phone.held[attempt][1]:
                    self.deliver(place, attempt)
            case CheckHealth(check_id=check_id, fencing_token=token):
                assert not any(not finished for _, finished in phone.held.values()), "it does an edit"
                assert token >= phone.highest_token
                self.mail.append(HealthChecked(self.now, place, check_id, len(self.log) % 2 == 0, "tried"))
            case CancelAttempt(attempt_id=attempt):
                self.finish(place, attempt)
            case Acknowledge(attempt_id=attempt):
                if phone.held.get(attempt, (0, False))[1]:
                    del phone.held[attempt]

    @rule(place=st.sampled_from(PLACES))
    def work(self, place):
        phone = self.phones.get(place)
        for attempt in list(phone.held if phone else ()):
            self.finish(place, attempt)

    def finish(self, place, attempt):
        phone = self.phones[place]
        if attempt in phone.held and not phone.held[attempt][1]:
            phone.held[attempt][1] = True
            if phone.linked and attempt in phone.followed:
                self.deliver(place, attempt)

    def deliver(self, place, attempt):
        token, _ = self.phones[place].held[attempt]
        self.mail.append(
            AttemptFinished(
                self.now,
                attempt,
                token,
                place,
                failed=token % 5 == 0,
                result={"by": attempt},
                base_proven=token % 7 != 0,
            )
        )

    @rule(place=st.sampled_from(PLACES))
    def crash_the_agent(self, place):
        """What runs is gone, what is finished stays in the journal."""
        phone = self.phones.get(place)
        for attempt, (token, finished) in list(phone.held.items() if phone else ()):
            if not finished:
                del phone.held[attempt]
                self.mail.append(AttemptFailed(self.now, attempt, token, place, "the agent crashed"))

    # The link

    @precondition(lambda self: self.mail)
    @rule(data=st.data(), keep=st.booleans())
    def receive(self, data, keep):
        """News arrives in any order, sometimes twice."""
        position = data.draw(st.integers(0, len(self.mail) - 1))
        event = self.mail[position] if keep else self.mail.pop(position)
        self.apply(event)

    @precondition(lambda self: self.state.attempts)
    @rule(data=st.data(), token=st.integers(1, 5), place=st.sampled_from(PLACES))
    def receive_nonsense(self, data, token, place):
        attempt = data.draw(st.sampled_from([*sorted(self.state.attempts), "unknown"]))
        event = AttemptFinished(self.now, attempt, token, place, False, {"by": attempt})
        if not self.counts(event):
            self.apply(event)

    @invariant()
    def holds(self):
        check(self.state)
        check_one_edit_per_phone(self.state)
        assert self.rows == rows_of(self.state, self.state)
        taken = {
            trial.trial_id: trial.result_attempt_id
            for trial in self.state.trials.values()
            if trial.result_attempt_id is not None
        }
        assert taken == self.accepted
        assert len(self.state.trials) == sum(len(job.trial_ids) for job in self.state.jobs.values())

    # The end

    def teardown(self):
        self.let_everything_work()
        self.holds()
        assert {trial.state for trial in self.state.trials.values()} <= ENDED
        for trial in self.state.trials.values():
            has_result = trial.state in (TrialState.DONE, TrialState.FAILED)
            assert has_result == (trial.trial_id in self.accepted)
            delivered = [a for a in trial.attempt_ids if self.state.attempts[a].state in DELIVERED]
            assert delivered == ([self.accepted[trial.trial_id]] if has_result else [])
        self.compare_with_the_store()

    def let_everything_work(self):
        """From wherever the history has led, a farm whose phones work ends every trial."""
        for place in PLACES:
            self.plug_in(place)
            self.operate(place, "release")
            self.operate(place, "undrain")
            self.tag(place, ("bench",))
            self.pause_or_go_on(place, DeviceState.READY)
        self.cancel_what_has_lost_its_phone()
        for _ in range(40 + 20 * len(self.state.trials)):
            if not any(job.open for job in self.state.jobs.values()):
                return
            for place in PLACES:
                self.feel(place, 25.0, 1.0)
            self.schedule()
            for place in PLACES:
                while self.commands[place]:
                    self.carry_out(place)
                self.work(place)
                self.operate(place, "release")
            while self.mail:
                self.apply(self.mail.pop(0))
                self.holds()
            upcoming = next_due(self.state, self.now, LEASES)
            if upcoming is not None:
                self.pass_time(max(0.0, upcoming - self.now))
        raise AssertionError("trials are stuck")

    def cancel_what_has_lost_its_phone(self):
        """Trials that belong on one phone wait for it for ever once another one is at its place."""
        for job in list(self.state.jobs.values()):
            for home in job.homes.values():
                if self.state.devices[home.device_id].measurement_epoch != home.measurement_epoch:
                    self.apply(JobCancelled(self.now, job.job_id))

    def compare_with_the_store(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "farm.sqlite"
            with SqliteStore(path) as store:
                half = len(self.log) // 2
                store.append(self.log[:half])
                assert store.append(self.log[half:]).result(60) == len(self.log)
                assert list(store.load()) == [without_bulk(event) for event in self.log]
                assert replay(store.load()) == self.state
            with StoreReader(path) as reader:
                self.compare_with(reader)

    def compare_with(self, reader):
        state = self.state
        assert reader.jobs() == [job_view(state, job) for job in state.jobs]
        assert {view.device_id: view for view in reader.devices()} == {
            place: device_view(state, place) for place in state.devices
        }
        for job in state.jobs.values():
            assert reader.trials(job.job_id) == [trial_view(state, trial) for trial in job.trial_ids]
            assert reader.attempts(job.job_id) == [
                attempt_view(state, attempt_id)
                for attempt_id, attempt in state.attempts.items()
                if attempt.job_id == job.job_id
            ]
            for result in reader.results(job.job_id):
                assert result.attempt_id == self.accepted.pop(result.trial_id)
                assert result.result == {"by": result.attempt_id}
        assert self.accepted == {}


Histories.TestCase.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
TestHistories = Histories.TestCase
