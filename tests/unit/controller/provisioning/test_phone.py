"""What a phone's shell prints, read."""

from __future__ import annotations

import pytest

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.provisioning.phone import (
    check_space,
    checksums_below,
    cpu_abi,
    find_home,
    parse_properties,
    read_properties,
    run,
)
from mobifarm.controller.transport.interface import ShellResult


class SayingPhone:
    """A link to a phone whose shell always says the same."""

    address = "tcp:phone:5555"

    def __init__(self, stdout: str = "", exit_code: int = 0, stderr: str = "") -> None:
        self.result = ShellResult(exit_code, stdout, stderr)

    def shell(self, command: str, timeout_s: float = 30.0) -> ShellResult:
        return self.result


def test_properties() -> None:
    text = (
        "[ro.product.model]: [Pixel 8]\r\n[empty]: []\n[a.b]: [x]: [y]\n"
        "[two.lines]: [one\ntwo]\nnoise\n[last]: [1]\n"
    )
    assert parse_properties(text) == {
        "ro.product.model": "Pixel 8",
        "a.b": "x]: [y",
        "two.lines": "one\ntwo",
        "last": "1",
    }


def test_a_phone_without_properties_is_none() -> None:
    with pytest.raises(DeviceError, match="is this an Android phone"):
        read_properties(SayingPhone("sh: getprop: not found"))


@pytest.mark.parametrize(
    ("properties", "abi"),
    [
        ({"ro.product.cpu.abilist64": "arm64-v8a", "ro.product.cpu.abi": "armeabi-v7a"}, "arm64-v8a"),
        ({"ro.product.cpu.abi": "x86_64"}, "x86_64"),
        ({}, ""),
    ],
)
def test_processor_interface(properties, abi) -> None:
    assert cpu_abi(properties) == abi


@pytest.mark.parametrize("home", ["", "data", "/data/../etc", "/data/a b", "/a\n/b", "/" + "x" * 300])
def test_a_home_that_cannot_be_used_is_refused(home) -> None:
    with pytest.raises(DeviceError, match="unusable folder"):
        find_home(SayingPhone(home))


def test_free_space() -> None:
    df = "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/dm-5 1000 1 999 1% /data\n"
    check_space(SayingPhone(df), "/data", 999 * 1024)
    with pytest.raises(DeviceError, match="2 MiB are needed in /data and 0 MiB are free"):
        check_space(SayingPhone(df), "/data", 2 << 20)
    with pytest.raises(DeviceError, match="unreadable"):
        check_space(SayingPhone("df: /data: permission denied"), "/data", 1)


def test_checksums() -> None:
    one, two = "a" * 64, "b" * 64
    text = f"{one}  ./manifest.json\n{two}  ./graphs/a b.onnx\nsha256sum: ./x: denied\n"
    assert checksums_below(SayingPhone(text), "/x") == {"manifest.json": one, "graphs/a b.onnx": two}


def test_a_failed_command_says_what_and_why() -> None:
    phone = SayingPhone(exit_code=1, stderr="tar: no space\n")
    with pytest.raises(
        DeviceError, match=r"^tcp:phone:5555: could not unpack \(exit code 1\): tar: no space$"
    ):
        run(phone, "tar", "unpack")
