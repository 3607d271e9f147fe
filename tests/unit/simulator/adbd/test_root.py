from __future__ import annotations

import pytest

from mobifarm.simulator.adbd.root import PhoneRoot


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("/data/local/tmp/x", "/home/phone/data/local/tmp/x"),
        ("data/local/tmp/x", "/home/phone/data/local/tmp/x"),
        ("/sys", "/home/phone/sys"),
        ("/", "/home/phone"),
        ("/home/phone/data/x", "/home/phone/data/x"),
        ("/proc/self", "/proc/self"),
        ("/database", "/database"),
    ],
)
def test_without_a_sandbox_android_folders_are_below_the_root(path: str, resolved: str) -> None:
    assert PhoneRoot("/home/phone").resolve(path) == resolved


def test_a_root_below_data_is_not_mapped_twice() -> None:
    root = PhoneRoot("/data/phones/1")
    assert root.resolve("/data/phones/1/data/x") == "/data/phones/1/data/x"
    assert root.resolve("/data/phones/10/x") == "/data/phones/1/data/phones/10/x"


def test_in_the_sandbox_paths_are_taken_as_they_are() -> None:
    assert PhoneRoot().resolve("/data/x") == "/data/x"
    assert PhoneRoot().resolve("data/x") == "/data/x"
