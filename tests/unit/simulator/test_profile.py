from __future__ import annotations

import json
import platform
from importlib.resources import files

import pytest

from mobifarm.simulator.profile import (
    UnknownProfileError,
    load_profile,
    parse_profile,
    profile_names,
    serial_of,
)
from mobifarm.simulator.sensors.model import BASE, MEMORY


def test_the_three_kinds_are_there() -> None:
    assert {"pixel-8", "galaxy-s24", "oneplus-12"} <= set(profile_names())


@pytest.mark.parametrize("name", profile_names())
def test_profile_is_consistent(name: str) -> None:
    profile = load_profile(name)
    sources = {cluster.name for cluster in profile.clusters} | {MEMORY, BASE}
    assert {rail.source for device in profile.rail_devices for rail in device.rails} <= sources
    properties = profile.phone_properties("S")
    assert properties["ro.boot.mobifarm.virtual"] == "1"
    assert properties["ro.product.cpu.abi"] in (platform.machine(), "arm64-v8a")
    assert {"ro.soc.model", "ro.build.fingerprint", "ro.build.version.sdk"} <= set(properties)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownProfileError, match="pixel-8"):
        load_profile("nokia-3310")


def test_unknown_field_is_refused() -> None:
    text = (files("mobifarm.simulator") / "profiles" / "pixel-8.json").read_text(encoding="utf-8")
    with pytest.raises(TypeError, match="colour"):
        parse_profile("x", {**json.loads(text), "colour": "red"})


def test_serials_are_stable_and_differ() -> None:
    assert serial_of("pixel-8") == serial_of("pixel-8")
    assert serial_of("pixel-8") != serial_of("pixel-8-2")
