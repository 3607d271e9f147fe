"""When the farm gets its computer, and when a job that needs it is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.core.due import LeaseSettings
from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.policies.fifo import FifoPolicy
from mobifarm.controller.errors import UserError
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.requests import FarmRequests
from mobifarm.controller.store.sqlite import SqliteStore
from mobifarm.workloads import methods
from mobifarm.workloads.errors import WorkloadInputError

RECORD = {
    "record_id": "r1",
    "subject": "Mira",
    "prompt": "Mira lives in",
    "target_new": "Oslo",
    "target_true": "Rome",
    "paraphrases": [],
    "neighbours": [],
    "portability": [],
}


class Host:
    """Notes what is attached."""

    name = "host"

    def __init__(self) -> None:
        self.attached: list[tuple[str, str]] = []

    async def attach(self, device_id: str, address: str, source: str) -> None:
        self.attached.append((device_id, address))

    async def detach(self, device_id: str) -> None:
        self.attached = [entry for entry in self.attached if entry[0] != device_id]


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def farm(tmp_path: Path, host: Any) -> Iterator[Farm]:
    store = SqliteStore(tmp_path / "farm.sqlite")
    yield Farm(
        store=store,
        host=host,
        policy=FifoPolicy(),
        settings=LeaseSettings(),
        clock=lambda: 1.0,
        identifier=lambda prefix: prefix,
        paranoid=True,
    )
    store.close()


@pytest.fixture
def requests(farm: Farm) -> FarmRequests:
    numbers = itertools.count()
    return FarmRequests(farm, clock=lambda: 1.0, identifier=lambda prefix: f"{prefix}-{next(numbers)}")


async def submit(requests: FarmRequests, model: Path, *names: str) -> None:
    spec = {
        "name": "facts",
        "model": str(model),
        "dataset": {"builtin": "personal-facts"},
        "methods": [{"name": name} for name in names],
    }
    await requests.submit(spec, [RECORD], "me")


async def test_the_computer_comes_with_the_first_job_that_needs_it(
    requests: FarmRequests, farm: Farm, host: Host, tiny_bundle_path: Path
) -> None:
    await submit(requests, tiny_bundle_path, "forward")
    assert host.attached == []
    await submit(requests, tiny_bundle_path, "forward", "rome")
    await submit(requests, tiny_bundle_path, "unedited")
    assert set(host.attached) == {("computer", "computer")}
    assert [trial.method for trial in farm.state.trials.values()] == [
        "forward",
        "forward",
        "rome",
        "unedited",
    ]
    await requests.forget_device("computer")
    assert host.attached == []
    await submit(requests, tiny_bundle_path, "unedited")
    assert host.attached == [("computer", "computer")]
    assert farm.state.devices["computer"].stage is DeviceState.DISCOVERED


async def test_it_may_be_added_beforehand(requests: FarmRequests, farm: Farm) -> None:
    await requests.add_device("computer", "command line")
    assert farm.state.devices["computer"].address == "computer"
    with pytest.raises(UserError, match="or computer for this machine"):
        await requests.add_device("computers", "command line")


async def test_without_torch_nothing_is_queued(
    requests: FarmRequests, farm: Farm, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "find_spec", lambda name: None)
    with pytest.raises(WorkloadInputError, match=r"pip install 'mobifarm\[models\]'"):
        await submit(requests, tiny_bundle_path, "forward", "rome")
    with pytest.raises(WorkloadInputError, match="torch"):
        await requests.add_device("computer", "command line")
    assert farm.state.jobs == {}
    assert farm.state.devices == {}
    await submit(requests, tiny_bundle_path, "forward")
