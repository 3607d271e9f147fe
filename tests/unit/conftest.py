"""Unit tests know no network, no Ray and no USB: reaching for one is a failure, not a slow test."""

from __future__ import annotations

import socket
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _no_outside_world(monkeypatch: pytest.MonkeyPatch) -> None:
    real_connect, real_bind = socket.socket.connect, socket.socket.bind

    def connect(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, "a unit test opens a network connection"
        real_connect(self, address)

    def bind(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, "a unit test opens a network port"
        real_bind(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "bind", bind)
    monkeypatch.setenv("RAY_ADDRESS", "unit-tests-start-no-ray")
