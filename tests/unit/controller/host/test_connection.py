"""What a phone says of itself."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from mobifarm.controller.host.connection import Phone


@pytest.mark.parametrize(
    ("properties", "execution"),
    [
        ({}, "phone"),
        ({"ro.boot.mobifarm.emulator": "qemu"}, "phone"),
        ({"ro.boot.mobifarm.virtual": "1"}, "virtual"),
        ({"ro.boot.mobifarm.virtual": "1", "ro.product.cpu.abi": "arm64-v8a"}, "virtual"),
        (
            {
                "ro.boot.mobifarm.virtual": "1",
                "ro.boot.mobifarm.emulator": "qemu",
                "ro.product.cpu.abi": "arm64-v8a",
            },
            "qemu_arm64",
        ),
    ],
)
def test_the_kind_of_machine(properties: dict[str, str], execution: str) -> None:
    provisioned: Any = mock.Mock(properties=properties)
    phone = Phone(mock.Mock(), provisioned, mock.Mock(), mock.Mock(), mock.Mock())
    assert phone.execution == execution
