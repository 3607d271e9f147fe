from __future__ import annotations

import json
import platform
import re
from importlib.resources import files
from pathlib import Path

import pytest

from mobifarm.simulator.profile import (
    BASE,
    MEMORY,
    UnknownProfileError,
    load_profile,
    parse_profile,
    profile_names,
    serial_of,
)


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


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("clusters",), [], "it has no clusters"),
        (("clusters", 0, "cores"), 0, "cores is '0'"),
        (("clusters", 0, "core_power_watts"), -1.0, "core_power_watts is '-1.0'"),
        (("battery", "capacity_mah"), 0, "capacity_mah is '0'"),
        (("battery", "resistance_ohms"), 0, "resistance_ohms is '0'"),
        (("battery", "discharge_sign"), 2, "discharge_sign is '2'"),
        (("base_power_watts",), "1", "base_power_watts is '1'"),
        (("memory_gib",), True, "memory_gib is 'True'"),
        (("thermal", "die_capacity_j_per_k"), float("nan"), "die_capacity_j_per_k is 'nan'"),
        (("properties",), {"ro.product.manufacturer": "Google"}, "no property ro.product.model"),
        (
            ("rail_devices", 0, "rails", 0, "source"),
            "sun",
            "'S2M_VDD_CPUCL2' has no source of the name 'sun'",
        ),
    ],
)
def test_what_no_phone_could_be_modelled_by_is_refused(
    tmp_path: Path, path: tuple[str | int, ...], value: object, reason: str
) -> None:
    text = (files("mobifarm.simulator") / "profiles" / "pixel-8.json").read_text(encoding="utf-8")
    document = json.loads(text)
    part = document
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UnknownProfileError, match=re.escape(reason)):
        load_profile(str(file))


def test_serials_are_stable_and_differ() -> None:
    assert serial_of("pixel-8") == serial_of("pixel-8")
    assert serial_of("pixel-8") != serial_of("pixel-8-2")
