import pytest

from mobifarm.controller.core.attributes import derive_attributes
from mobifarm.controller.core.events import Identity
from mobifarm.workloads.clauses import ATTRIBUTES


def derived(**properties):
    names = {name.replace("__", "."): value for name, value in properties.items()}
    identity = Identity("usb:1-2", "R5", "f")
    return derive_attributes("usb:1-2", identity, names, execution="phone", host="shelf")


def test_every_attribute_has_a_name_that_conditions_know():
    properties = {
        "ro.product.manufacturer": "samsung",
        "ro.product.model": "SM-S921B",
        "ro.product.cpu.abi": "arm64-v8a",
        "ro.soc.manufacturer": "QTI",
        "ro.soc.model": "SM8650",
        "ro.build.version.release": "14",
        "ro.build.version.sdk": "34",
    }
    found = derive_attributes(
        "hub1/usb:1-2",
        Identity("usb:1-2", "R5", "f"),
        properties,
        execution="phone",
        host="shelf",
        memory_total_bytes=8 << 30,
        cpu_count=8,
        tags=("bench",),
    )
    assert found == {
        "device": "hub1/usb:1-2",
        "serial": "R5",
        "execution": "phone",
        "host": "shelf",
        "tag": ("bench",),
        "phone.manufacturer": "samsung",
        "phone.model": "SM-S921B",
        "android.version": "14",
        "android.sdk": 34.0,
        "abi": "arm64-v8a",
        "soc.manufacturer": "QTI",
        "soc.model": "SM8650",
        "npu.arch": 75.0,
        "ram.gib": 8.0,
        "cpu.count": 8.0,
    }
    assert set(found) == set(ATTRIBUTES)


@pytest.mark.parametrize(
    ("soc", "arch"),
    [("SM8350", 68), ("sm8450", 69), ("SM8550", 73), ("SM8750", 79), ("SM8250", None), ("Tensor G3", None)],
)
def test_the_hexagon_version_follows_from_the_chip(soc, arch):
    assert derived(ro__soc__model=soc).get("npu.arch") == arch


def test_before_android_12_the_board_tells_the_chip():
    assert derived(ro__board__platform="kalama")["soc.model"] == "SM8550"
    assert derived(ro__board__platform="zuma").get("soc.model") is None


def test_what_makes_no_sense_is_unknown():
    found = derived(ro__build__version__release="UpsideDownCake", ro__build__version__sdk="x")
    assert found.keys().isdisjoint({"android.version", "android.sdk", "ram.gib", "cpu.count"})
