"""What selectors can ask of a phone, derived from what it tells of itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mobifarm.controller.core.events import Identity
from mobifarm.workloads.clauses import Value

# The Hexagon version that Qualcomm's own libQnnHtp 2.7.0 writes into a context for each of these chips. Where
# other sources name a newer one (SM8475, SM7475, SM7450: 69) this is the careful answer. Older chips have no
# HTP: they are not listed, and the attribute is unknown.
HEXAGON_BY_SOC: Final[Mapping[str, int]] = {
    **dict.fromkeys(("SM8350", "SM7325", "SM7350", "QCS6490"), 68),
    **dict.fromkeys(("SM7450", "SM7435", "SM6450", "SM6475", "SM7475", "SM8475"), 68),
    "SM8450": 69,
    **dict.fromkeys(("SM8550", "QCS8550", "SC8380XP", "SM8635", "SM7675", "SM8735", "SM7750"), 73),
    **dict.fromkeys(("SM7550", "SM7635", "SM6650"), 73),
    "SM8650": 75,
    "SM8750": 79,
    **dict.fromkeys(("SM8845", "SM8850"), 81),
    "SM8975": 85,
}

# Before Android 12 there is no ro.soc.model; the board's code name tells it for the chips that matter.
SOC_BY_PLATFORM: Final[Mapping[str, str]] = {
    "lahaina": "SM8350",
    "taro": "SM8450",
    "kalama": "SM8550",
    "pineapple": "SM8650",
    "sun": "SM8750",
    "canoe": "SM8850",
}

_NUMBER: Final = re.compile(r"\d{1,9}")
_VERSION: Final = re.compile(r"\d{1,6}(\.\d{1,6}){0,5}")


def derive_attributes(
    device_id: str,
    identity: Identity,
    properties: Mapping[str, str],
    *,
    execution: str,
    host: str,
    memory_total_bytes: int = 0,
    cpu_count: int = 0,
    tags: tuple[str, ...] = (),
) -> dict[str, Value]:
    """Attributes by the names of :data:`mobifarm.workloads.clauses.ATTRIBUTES`; what is unknown is absent.

    Args:
        device_id: the place, with its host where that is a joined one; addresses repeat over hosts.
        properties: Android's, by their getprop names.
        memory_total_bytes: what the phone's kernel manages; 0 where it is unknown, as ``cpu_count``.
    """
    attributes: dict[str, Value] = {"device": device_id, "execution": execution, "tag": tags}
    texts = {
        "serial": identity.serial,
        "host": host,
        "phone.manufacturer": properties.get("ro.product.manufacturer", ""),
        "phone.model": properties.get("ro.product.model", ""),
        "abi": properties.get("ro.product.cpu.abi", ""),
        "soc.manufacturer": properties.get("ro.soc.manufacturer", ""),
        "soc.model": _soc(properties),
    }
    attributes.update((name, text) for name, text in texts.items() if text)
    version = properties.get("ro.build.version.release", "")
    if _VERSION.fullmatch(version):
        attributes["android.version"] = version
    sdk = properties.get("ro.build.version.sdk", "")
    if _NUMBER.fullmatch(sdk):
        attributes["android.sdk"] = float(sdk)
    arch = HEXAGON_BY_SOC.get(texts["soc.model"].upper())
    if arch is not None:
        attributes["npu.arch"] = float(arch)
    if memory_total_bytes > 0:
        attributes["ram.gib"] = round(memory_total_bytes / 2**30, 2)
    if cpu_count > 0:
        attributes["cpu.count"] = float(cpu_count)
    return attributes


def _soc(properties: Mapping[str, str]) -> str:
    told = properties.get("ro.soc.model", "")
    return told or SOC_BY_PLATFORM.get(properties.get("ro.board.platform", "").lower(), "")
