"""What people may ask of a running farm. Each request is checked whole before anything changes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from mobifarm.controller.core.conditions import Gates
from mobifarm.controller.core.events import (
    DeviceAdded,
    DeviceDrained,
    DeviceForgotten,
    DeviceQuarantined,
    DeviceReleased,
    DeviceState,
    DeviceTagged,
    DeviceUndrained,
    JobCancelled,
    JobSubmitted,
    TrialPlan,
)
from mobifarm.controller.core.selector import COMPUTER, DeviceSelector
from mobifarm.controller.core.state import Device
from mobifarm.controller.core.twins import other_place
from mobifarm.controller.core.why import Why, why
from mobifarm.controller.doctor.seed import document
from mobifarm.controller.errors import DeviceError, FarmError, UserError
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.host.edits import (
    EXPORT_LIMIT_BYTES,
    ExportEdits,
    ImportEdits,
    ListEdits,
    UndoEdits,
)
from mobifarm.workloads.methods import require_torch, runs_on_computer
from mobifarm.workloads.models.catalogue import bundle_named
from mobifarm.workloads.models.sources import source_of_bundle
from mobifarm.workloads.planner import plan
from mobifarm.workloads.records import record_from_mapping
from mobifarm.workloads.spec import DevicesSpec, GatesSpec, parse_spec

TCP_ADDRESS = re.compile(r"tcp:(?P<host>[A-Za-z0-9.\-]+):(?P<port>\d{1,5})")
USB_ADDRESS = re.compile(r"usb:\d+-\d+(\.\d+)*|adb:\S{1,100}")  # the latter only an adb server knows
TAG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
TAG_LIMIT: Final = 20


class FarmRequests:
    """The farm's front door, used by the HTTP API."""

    def __init__(self, farm: Farm, *, clock: Callable[[], float], identifier: Callable[[str], str]) -> None:
        self._farm = farm
        self._clock = clock
        self._identifier = identifier

    async def submit(
        self, spec: Mapping[str, Any], records: Sequence[Mapping[str, Any]], user: str
    ) -> Mapping[str, Any]:
        """Plan an evaluation and queue its trials.

        Args:
            spec: the evaluation spec as in its YAML file.
            records: the edit records that the spec's data set resolved to, in MobiFarm's own format.

        Returns:
            ``job_id`` and the number of ``trials``.

        Raises:
            UserError, WorkloadInputError: nothing was queued; the message says what to change.
        """
        checked = parse_spec(spec)
        bundle = await asyncio.to_thread(bundle_named, checked.model)
        trials = plan(checked, [record_from_mapping(record) for record in records], bundle_hash=bundle.hash)
        if not trials:
            raise UserError("the evaluation has no trials: its data set is empty after limit and offset")
        needs_computer = any(runs_on_computer(method.name) for method in checked.methods)
        if needs_computer:
            require_torch()
            await asyncio.to_thread(source_of_bundle, bundle.path)
        job_id = self._identifier("job")
        await self._farm.apply(
            JobSubmitted(
                at=self._clock(),
                job_id=job_id,
                name=checked.name,
                user=user,
                spec=dict(spec),
                trials=tuple(
                    TrialPlan(
                        f"{job_id}/{trial.trial_id}",
                        trial.label,
                        trial.payload,
                        trial.payload["method"],
                        trial.group,
                    )
                    for trial in trials
                ),
                selector=_selector(checked.devices),
                priority=checked.priority,
                attempt_limit=checked.attempts,
                gates=_gates(checked.gates),
            )
        )
        if needs_computer:  # where it is there already this changes nothing
            await self.add_device(COMPUTER, "a job's baselines")
        return {"job_id": job_id, "trials": len(trials)}

    async def cancel(self, job_id: str) -> Mapping[str, Any]:
        """Cancel a job; trials that have a result keep it.

        Raises:
            UserError: there is no such job, or it has ended.
        """
        job = self._farm.state.jobs.get(job_id)
        if job is None:
            raise UserError(f"there is no job {job_id}; `mobifarm jobs` lists them")
        if not job.open:
            raise UserError(f"the job {job_id} has ended already ({job.state})")
        await self._farm.apply(JobCancelled(at=self._clock(), job_id=job_id))
        return {"job_id": job_id, "state": str(self._farm.state.jobs[job_id].state)}

    async def add_device(self, address: str, source: str, host: str = "") -> Mapping[str, Any]:
        """Keep the phone at ``tcp:HOST:PORT`` or ``usb:BUS-PORT.PORT`` connected from now on.

        ``computer`` is this machine, which runs the baselines; a job that names one adds it by itself.
        ``host`` names the joined host to which the phone is connected; "" is this machine.

        Raises:
            UserError: the address has another form, or there is no such host.
            WorkloadInputError: the computer has no torch.
        """
        match = TCP_ADDRESS.fullmatch(address)
        if address == COMPUTER:
            require_torch()
        elif not (match and 0 < int(match["port"]) < 65536) and not USB_ADDRESS.fullmatch(address):
            raise UserError(
                f"{address!r} is no address of a phone: write tcp:HOST:PORT or usb:BUS-PORT.PORT "
                f"(or {COMPUTER} for this machine)"
            )
        device_id = address
        if host:
            if address == COMPUTER:
                raise UserError("the computer is the farm's own machine: add it without a host")
            if host not in self._farm.state.hosts:
                raise UserError(f"there is no host {host}; `mobifarm hosts` lists them")
            device_id = f"{host}/{address}"
        await self._farm.apply(DeviceAdded(self._clock(), device_id, address, source, host))
        await self._farm.attach(device_id, address)
        return {"device_id": device_id}

    async def forget_device(self, device_id: str, keep_edits: bool = False) -> Mapping[str, Any]:
        """Take a phone out of the farm and the farm's files off it; its running edit is given to another one.

        Returns:
            What was ``removed`` and ``left`` in words, ``freed_bytes``, and a ``problem`` where the phone
            could not be cleaned; it is forgotten all the same.
        """
        device = self._known(device_id)
        stays = other_place(self._farm.state, device)
        await self._farm.apply(DeviceForgotten(self._clock(), device_id))
        await self._farm.detach(device_id)
        answer: dict[str, Any] = {"device_id": device_id, "removed": [], "left": [], "freed_bytes": 0}
        if stays is not None:
            answer["left"] = [f"everything, for the same phone is at {stays}"]
        elif device.address != COMPUTER:
            try:
                answer |= asdict(await self._farm.clean(device_id, keep_edits))
            except FarmError as error:
                answer["problem"] = str(error)
        return answer

    async def release_device(self, device_id: str) -> Mapping[str, Any]:
        """End a phone's quarantine."""
        return await self._care(DeviceReleased(self._clock(), device_id))

    async def quarantine_device(self, device_id: str, reason: str) -> Mapping[str, Any]:
        """Give a phone no work until a person releases it; its running edit goes on. Raises UserError."""
        if not reason.strip():
            raise UserError("a quarantine needs a reason, which is shown to whoever wonders")
        action = "`mobifarm devices release` gives it work again."
        return await self._care(
            DeviceQuarantined(self._clock(), device_id, reason.strip(), action, by_person=True)
        )

    async def drain_device(self, device_id: str, reason: str) -> Mapping[str, Any]:
        """Let a phone finish what it does and give it nothing new until it is undrained."""
        return await self._care(DeviceDrained(self._clock(), device_id, reason.strip()))

    async def undrain_device(self, device_id: str) -> Mapping[str, Any]:
        """End :meth:`drain_device`."""
        return await self._care(DeviceUndrained(self._clock(), device_id))

    async def _care(
        self, event: DeviceReleased | DeviceQuarantined | DeviceDrained | DeviceUndrained
    ) -> Mapping[str, Any]:
        device = self._known(event.device_id)
        await self._farm.apply(event)
        return {"device_id": device.device_id, "state": str(device.state)}

    async def examine_device(self, device_id: str) -> Mapping[str, Any]:
        """Probe what a phone can do: a document with ``findings``, see mobifarm.controller.doctor.seed.

        Raises:
            UserError, DeviceError, HostError: it cannot be asked; among others, it does an edit.
        """
        self._idle_token(device_id)  # the probes would disturb an edit's measurements
        findings = await self._farm.examine(device_id)
        identity = self._farm.state.devices[device_id].identity
        return document(device_id, identity.serial if identity else "", self._clock(), findings)

    async def identify_device(self, device_id: str) -> Mapping[str, Any]:
        """Have an idle phone blink with its screen, so that a person finds it on the shelf.

        Raises:
            UserError, DeviceError, HostError: it cannot be asked; among others, it does an edit.
        """
        self._idle_token(device_id)  # a lit screen draws power that is not the edit's
        await self._farm.identify(device_id)
        return {"device_id": device_id, "state": str(self._farm.state.devices[device_id].state)}

    async def tag_device(
        self, device_id: str, add: Sequence[str], remove: Sequence[str]
    ) -> Mapping[str, Any]:
        """Give a phone tags, take others away.

        Returns:
            ``device_id`` and all ``tags`` that it has now.

        Raises:
            UserError: there is no such phone, or a tag has another form; nothing was changed.
        """
        device = self._known(device_id)
        for tag in (*add, *remove):
            if not TAG.fullmatch(tag):
                raise UserError(
                    f"{tag!r} is no tag: use up to 40 letters, digits, . _ and -, a letter or digit first"
                )
        tags = tuple(sorted({*device.tags, *add} - set(remove)))
        if len(tags) > TAG_LIMIT:
            raise UserError(f"a phone has at most {TAG_LIMIT} tags: remove some with --remove")
        if tags != device.tags:
            await self._farm.apply(DeviceTagged(self._clock(), device_id, tags))
        return {"device_id": device_id, "tags": list(tags)}

    def why(self, job_id: str) -> Why:
        """Why a job waits, see :mod:`mobifarm.controller.core.why`.

        Raises:
            UserError: there is no such job.
        """
        if job_id not in self._farm.state.jobs:
            raise UserError(f"there is no job {job_id}; `mobifarm jobs` lists them")
        return why(self._farm.state, self._farm.policy, job_id, self._clock())

    async def list_edits(self, device_id: str) -> Mapping[str, Any]:
        """The edits that a phone keeps, ``bundles`` with their ``edits``; also while it does an edit.

        Raises:
            UserError, DeviceError, HostError: it cannot be asked.
        """
        self._connected(device_id)
        return await self._farm.edits(device_id, ListEdits())

    async def export_edits(self, device_id: str, bundle_hash: str) -> Mapping[str, Any]:
        """The kept edits of a bundle as one file, ``exported`` in base64; raises as :meth:`list_edits`."""
        self._connected(device_id)
        return await self._farm.edits(device_id, ExportEdits(bundle_hash))

    async def undo_edits(
        self, device_id: str, bundle_hash: str, edit_ids: Sequence[str] | None
    ) -> Mapping[str, Any]:
        """Undo some or, where ``edit_ids`` is None, all kept edits of a bundle.

        Returns:
            The names of those ``undone``, and how many are ``kept`` still.

        Raises:
            UserError, DeviceError, HostError: nothing was undone; among others, the phone does an edit.
        """
        token = self._idle_token(device_id)
        chosen = None if edit_ids is None else tuple(edit_ids)
        return await self._farm.edits(device_id, UndoEdits(bundle_hash, chosen, token))

    async def import_edits(self, device_id: str, exported: str) -> Mapping[str, Any]:
        """Have a phone keep the edits of an exported file, given in base64.

        Returns:
            ``bundle_hash``, the names of those ``imported``, and how many are ``kept`` now.

        Raises:
            UserError, DeviceError, HostError: nothing was imported; among others, the phone does an edit.
        """
        try:
            content = base64.b64decode(exported, validate=True)
        except (binascii.Error, ValueError):
            raise UserError("exported is not base64") from None
        if len(content) > EXPORT_LIMIT_BYTES:
            raise UserError(
                f"the file is larger than {EXPORT_LIMIT_BYTES >> 20} MiB: it is no export of edits"
            )
        token = self._idle_token(device_id)
        return await self._farm.edits(device_id, ImportEdits(content, token))

    def _idle_token(self, device_id: str) -> int:
        """The newest fencing token of all: a phone that another farm has used since refuses it."""
        device = self._connected(device_id)
        if device.same_as is not None:
            raise UserError(f"{device_id} is the same phone as {device.same_as}: name that one")
        if device.attempt_id is not None or device.stopping_attempt_id is not None:
            raise UserError(
                f"the phone {device_id} does an edit now: try again when it has ended, or cancel it"
            )
        if device.health_check is not None:
            raise UserError(f"the farm checks the phone {device_id} now: try again when it has ended")
        return self._farm.state.next_fencing_token - 1

    def _connected(self, device_id: str) -> Device:
        device = self._known(device_id)
        if not device.connected:
            raise DeviceError(
                f"the phone {device_id} is not there ({device.stage}): `mobifarm devices` says what it needs"
            )
        return device

    def _known(self, device_id: str) -> Device:
        device = self._farm.state.devices.get(device_id)
        if device is None or device.stage is DeviceState.RETIRED:
            raise UserError(f"there is no phone {device_id}; `mobifarm devices` lists them")
        return device


def _selector(devices: DevicesSpec) -> DeviceSelector:
    return DeviceSelector(
        execution=None if devices.execution == "any" else devices.execution,
        serials=tuple(devices.serials),
        properties=devices.properties,
        count=devices.count,
        where=tuple(devices.where),
        placement="spread" if devices.placement == "spread" else "any",
    )


def _gates(gates: GatesSpec) -> Gates:
    percent, mib = gates.min_battery_percent, gates.min_free_storage_mib
    return Gates(
        max_temperature_celsius=gates.max_temperature_celsius,
        min_battery=None if percent is None else percent / 100,
        charging=gates.charging,
        screen_off=gates.screen_off,
        min_free_storage_bytes=None if mib is None else mib * 2**20,
        unknown=gates.unknown,
    )
