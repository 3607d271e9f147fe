"""What a host is told about itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobifarm.controller.errors import HostError
from mobifarm.controller.host.phones import HostConfiguration

BARE = HostConfiguration("hub", Path("/key"), Path("/scratch"), Path("/computer"), farm="10.0.0.1:7650")
FULL = HostConfiguration(
    "hub",
    Path("/key"),
    Path("/scratch"),
    Path("/computer"),
    usb=True,
    announcements=Path("/virtual"),
    adb_server=("10.0.0.2", 5037),
    allow_reboot=True,
    farm="10.0.0.1:7650",
    farm_token=Path("/scratch/farm-token"),
)


@pytest.mark.parametrize("configuration", [BARE, FULL])
def test_the_processes_that_ray_starts_learn_all_that_join_was_told(
    configuration: HostConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in configuration.to_environment().items():
        monkeypatch.setenv(name, value)
    assert HostConfiguration.from_environment() == configuration


def test_a_machine_that_has_not_joined_is_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HostConfiguration.ENVIRONMENT_NAME, raising=False)
    with pytest.raises(HostError, match="mobifarm join"):
        HostConfiguration.from_environment()
