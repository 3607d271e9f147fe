from __future__ import annotations

import os
from pathlib import Path

import pytest

from mobifarm.controller.errors import HostError
from mobifarm.controller.farm import cluster
from mobifarm.controller.farm.cluster import START_ATTEMPTS, Cluster

TIMED_OUT = "The current node timed out during startup."


def starting(monkeypatch: pytest.MonkeyPatch, *outcomes: str) -> list[Path]:
    """Have Ray's start fail with each message in turn; "" lets it start. Returns the folders it was given."""
    tried: list[Path] = []

    def init(scratch: Path, own_address: str | None) -> str:
        tried.append(scratch)
        if message := outcomes[len(tried) - 1]:
            raise RuntimeError(message)
        return "127.0.0.1:6379"

    monkeypatch.setattr(cluster, "_init", init)
    for name in (
        *cluster.RAY_ENVIRONMENT,
        *cluster.LOOPBACK_ONLY,
        "RAY_AUTH_TOKEN_PATH",
        "RAY_GCS_SERVER_PORT",
    ):
        monkeypatch.setenv(name, "")
    return tried


def test_a_start_that_took_too_long_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = starting(monkeypatch, TIMED_OUT, "")
    started = Cluster.start(tmp_path / "token")
    assert started.scratch == tried[1]
    assert not tried[0].exists()
    tried[1].rmdir()


@pytest.mark.parametrize(
    ("outcomes", "attempts"), [((TIMED_OUT,) * START_ATTEMPTS, START_ATTEMPTS), (("no such file",), 1)]
)
def test_what_does_not_start_is_named_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcomes: tuple[str, ...], attempts: int
) -> None:
    tried = starting(monkeypatch, *outcomes)
    with pytest.raises(HostError, match=outcomes[-1]):
        Cluster.start(tmp_path / "token")
    assert len(tried) == attempts
    assert not any(path.exists() for path in tried)


def test_only_a_farm_that_waits_for_hosts_lets_ray_listen_beyond_loopback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    starting(monkeypatch, "", "")
    Cluster.start(tmp_path / "token").scratch.rmdir()
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    Cluster.start(tmp_path / "token", ("10.0.0.1", 7651)).scratch.rmdir()
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ
    assert os.environ["RAY_GCS_SERVER_PORT"] == "7651"
