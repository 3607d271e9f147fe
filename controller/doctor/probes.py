"""The questions to a phone's shell, and what the answers mean. Pure: commands are run elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from mobifarm.controller.doctor.finding import ShellProbe, Verdict
from mobifarm.controller.provisioning.phone import parse_properties
from mobifarm.controller.transport.interface import ShellResult

_RUNTIME: Final = (
    'D="${ANDROID_DATA:-/data}/local/tmp/mobifarm"; set -- "$D"/runtime/*/run.sh; [ -f "$1" ] || exit 9; '
)
_NO_RUNTIME: Final = 9
_PROPERTY_PREFIXES: Final = (
    "ro.product.",
    "ro.soc.",
    "ro.build.",
    "ro.hardware",
    "ro.board.",
    "ro.boot.hardware",
)
_ALWAYS_MICROAMPERES: Final = 20_000  # a phone never draws 20 A, so more than this counts microamperes


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _properties(result: ShellResult) -> Verdict:
    named = {
        name: value
        for name, value in parse_properties(result.stdout).items()
        if name.startswith(_PROPERTY_PREFIXES) and "serial" not in name and "\n" not in value
    }
    if not named:
        return Verdict("failed", None, "getprop names nothing: this is no Android")
    return Verdict("ok", named, "what the phone says it is")


def _property(name: str, meaning: str, missing: str) -> Callable[[ShellResult], Verdict]:
    def parse(result: ShellResult) -> Verdict:
        value = _first(result.stdout)
        return (
            Verdict("ok", value, meaning)
            if value
            else Verdict("unknown", None, f"{name} is empty: {missing}")
        )

    return parse


def _kernel(result: ShellResult) -> Verdict:
    words = result.stdout.split()
    if len(words) < 2:
        return Verdict("unknown", None, "uname says nothing")
    return Verdict("ok", {"release": words[0], "machine": words[1]}, "the kernel that the agent runs on")


def _page_size(result: ShellResult) -> Verdict:
    match = re.search(r"(\d+)( kB)?", result.stdout)
    size = int(match[1]) * (1024 if match[2] else 1) if match else 0
    if size not in (4096, 16384, 65536):
        return Verdict("unknown", None, "the page size cannot be read")
    return Verdict(
        "ok", size, "bytes; the runtime's libraries are aligned to 64 KiB and load with any of these"
    )


def _selinux(result: ShellResult) -> Verdict:
    word = _first(result.stdout).lower()
    mode = {"0": "permissive", "1": "enforcing"}.get(word, word)
    if mode not in ("enforcing", "permissive", "disabled"):
        return Verdict("unknown", None, "the phone does not tell")
    return Verdict("ok", mode, "it decides which files the shell may read, beside their modes")


def _mount(result: ShellResult) -> Verdict:
    words = _first(result.stdout).split()
    if len(words) < 4:
        return Verdict("unknown", None, "the mount of the farm's folder is not listed")
    options = words[3].split(",")
    if "noexec" in options:
        return Verdict(
            "failed", "noexec", "nothing can be executed in the farm's folder: the agent cannot start"
        )
    return Verdict("ok", "exec", "programs may be started in the farm's folder")


def _execution(result: ShellResult) -> Verdict:
    if "ran" in result.stdout:
        return Verdict("ok", True, "a program in /data/local/tmp can be executed")
    return Verdict("failed", False, "a program in /data/local/tmp cannot be executed: the agent cannot start")


def _python(good: str, bad: str) -> Callable[[ShellResult], Verdict]:
    def parse(result: ShellResult) -> Verdict:
        if result.exit_code == _NO_RUNTIME:
            return Verdict(
                "unknown", None, "the farm's runtime is not on the phone yet; add it to a farm first"
            )
        if "mobifarm-ok" in result.stdout:
            return Verdict("ok", True, good)
        return Verdict("failed", False, bad)

    return parse


def _lines(result: ShellResult, fields: int) -> list[list[str]]:
    split = (line.split("|") for line in result.stdout.splitlines())
    return [[field.strip() for field in parts] for parts in split if len(parts) == fields]


def _rails(result: ShellResult) -> Verdict:
    devices: dict[str, Any] = {}
    denied = False
    for name, text in _lines(result, 2):
        rails = re.findall(r"CH\d+\[([^\]]+)\]:(\S+)", text)
        denied |= not rails
        devices[name] = [{"channel": channel, "subsystem": subsystem} for channel, subsystem in rails]
    if devices and not denied:
        return Verdict("ok", devices, "the power of single rails can be read from sysfs")
    if devices:
        return Verdict("failed", devices, "there is an energy meter, and the shell may not read it")
    return Verdict("unknown", None, "there is no energy meter in sysfs; power is the battery's only")


def _power_stats(result: ShellResult) -> Verdict:
    rails = re.findall(r"\[([^\]]+)\]:(\S+)\s+[\d.]+ mWs", result.stdout)
    if rails:
        names = [f"{channel}:{subsystem}" for channel, subsystem in rails]
        return Verdict("ok", names, "energy of single rails from the power stats service, in mWs")
    return Verdict("unknown", None, "the power stats service tells no rails; power is the battery's only")


def _thermal_zones(result: ShellResult) -> Verdict:
    zones = [
        {"type": kind, "readable": bool(re.fullmatch(r"-?\d+", value))} for kind, value in _lines(result, 2)
    ]
    if not zones:
        return Verdict("unknown", None, "no thermal zone is listed; dumpsys thermalservice may know more")
    if not any(zone["readable"] for zone in zones):
        return Verdict("failed", zones, "thermal zones are there, and the shell may not read them")
    return Verdict("ok", zones, "temperatures that the agent reads during an edit")


def _battery(result: ShellResult) -> Verdict:
    listed = dict(_lines(result, 2))
    if not listed:
        return Verdict("unknown", None, "sysfs shows no battery; dumpsys battery may")
    readable = sorted(name for name, value in listed.items() if value != "denied")
    denied = sorted(listed.keys() - set(readable))
    raw, status = _integer(listed.get("current_now", "")), listed.get("status", "").lower()
    value = {
        "readable": readable,
        "denied": denied,
        "current_unit": None if not raw else "uA" if abs(raw) > _ALWAYS_MICROAMPERES else "mA",
        "current_sign": current_sign(raw, status),
        "current_seen": _seen(raw, status),
        "capacity_uah": _integer(listed.get("charge_full_design", "")),
    }
    if raw is None:
        return Verdict("failed", value, "the battery's current cannot be read: no energy can be told")
    return Verdict(
        "ok",
        value,
        "current and voltage of the whole phone; on a cable it is the charger's share that is seen",
    )


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,15}", text) else None


def _seen(raw: int | None, status: str) -> str | None:
    return None if not raw or not status else f"{'positive' if raw > 0 else 'negative'} while {status}"


def current_sign(raw: int | None, status: str) -> str:
    """Which way a positive reading flows, where one reading can tell."""
    if raw and status == "discharging":
        return "positive_into_battery" if raw < 0 else "positive_out_of_battery"
    if raw and status == "charging" and raw > 0:
        return "positive_into_battery"
    return "unknown"


def _npu(result: ShellResult) -> Verdict:
    found = sorted({line.strip() for line in result.stdout.splitlines() if line.strip().startswith("/")})
    if found:
        return Verdict("ok", found, "libraries of a neural processor; edits run on the CPU all the same")
    return Verdict("unknown", [], "no library of a neural processor is where they usually are")


def _thermal_service(result: ShellResult) -> Verdict:
    status = re.search(r"Thermal Status: (\d)", result.stdout)
    names = sorted(set(re.findall(r"Temperature\{[^}]*mName=([^,}]+)", result.stdout)))
    if not status:
        return Verdict("unknown", None, "dumpsys thermalservice has another format or is refused")
    return Verdict("ok", {"temperatures": names}, "Android's own thermal status and temperatures can be read")


def _battery_service(result: ShellResult) -> Verdict:
    found = dict(re.findall(r"^\s*([A-Za-z ]+): (-?\w+)\s*$", result.stdout, re.MULTILINE))
    known = sorted(
        found.keys() & {"level", "voltage", "temperature", "status", "Charge counter", "current now"}
    )
    if {"level", "voltage"} <= set(known):
        return Verdict("ok", known, "what dumpsys battery tells where sysfs is denied")
    return Verdict("unknown", None, "dumpsys battery has another format or is refused")


def _battery_stats(result: ShellResult) -> Verdict:
    match = re.match(r"9,\d+,i,vers,(\d+),(\d+)", _first(result.stdout))
    if match:
        return Verdict("ok", {"checkin_version": int(match[1])}, "batterystats in the checkin format")
    return Verdict("unknown", None, "dumpsys batterystats has another format or is refused")


def _space(result: ShellResult) -> Verdict:
    words = (result.stdout.strip().splitlines() or [""])[-1].split()
    try:
        free = int(words[3]) * 1024
    except (IndexError, ValueError):
        return Verdict("unknown", None, "df says nothing readable")
    if free < 1 << 30:
        return Verdict("failed", free, "bytes; too few for a runtime and a model: free 1 GiB")
    return Verdict("ok", free, "bytes free for runtimes and models")


def _screen(result: ShellResult) -> Verdict:
    match = re.search(r"mWakefulness=(\w+)", result.stdout)
    if not match:
        return Verdict("unknown", None, "the power service does not tell")
    on = match[1].lower() == "awake"
    note = (
        "the screen is on: it heats the phone and takes power" if on else "the screen is off, as it should be"
    )
    return Verdict("ok", match[1].lower(), note)


def _memory(result: ShellResult) -> Verdict:
    match = re.search(r"MemTotal:\s+(\d+) kB", result.stdout)
    return (
        Verdict("ok", int(match[1]) * 1024, "bytes that the kernel manages")
        if match
        else Verdict("unknown", None, "/proc/meminfo cannot be read")
    )


def _clusters(result: ShellResult) -> Verdict:
    counted: dict[tuple[int, int], int] = {}
    for low, high in _lines(result, 2):
        if low.isdigit() and high.isdigit():
            counted[int(low), int(high)] = counted.get((int(low), int(high)), 0) + 1
    if not counted:
        return Verdict("failed", [], "the clocks of the cores cannot be read: throttling goes unseen")
    clusters: list[Mapping[str, int]] = [
        {"cores": cores, "minimum_khz": low, "maximum_khz": high}
        for (low, high), cores in sorted(counted.items())
    ]
    return Verdict("ok", clusters, "cores by their clocks, slowest first")


_EXECUTE = (
    'F="${ANDROID_DATA:-/data}/local/tmp/.mobifarm-doctor"; rm -f "$F"; '
    'cp "$(command -v sh)" "$F" && chmod 700 "$F" && "$F" -c "echo ran"; rm -f "$F"'
)
_MEMFD = (
    "import os, shutil; d = os.memfd_create('sh'); os.write(d, open(shutil.which('sh'), 'rb').read()); "
    "os.execve(d, ['sh', '-c', 'echo mobifarm-ok'], dict(os.environ))"
)

SHELL_PROBES: Final = (
    ShellProbe("properties", "getprop", _properties),
    ShellProbe(
        "soc_model",
        "getprop ro.soc.model",
        _property(
            "ro.soc.model", "the chip; it decides which neural processor there is", "Android 12 or older"
        ),
    ),
    ShellProbe(
        "abi_list",
        "getprop ro.product.cpu.abilist",
        _property("ro.product.cpu.abilist", "kinds of programs that run", "which runtime fits is not known"),
    ),
    ShellProbe("kernel", "uname -rm", _kernel),
    ShellProbe(
        "page_size",
        "getconf PAGESIZE 2>/dev/null || grep -m 1 KernelPageSize /proc/self/smaps",
        _page_size,
    ),
    ShellProbe("selinux", "getenforce 2>/dev/null || cat $S/sys/fs/selinux/enforce", _selinux),
    ShellProbe("data_mount", "cat /proc/mounts | grep -E ' (/data|/data/local/tmp) ' | tail -n 1", _mount),
    ShellProbe("execute", _EXECUTE, _execution),
    ShellProbe(
        "loader",
        _RUNTIME + 'sh "$1" -c "print(\'mobifarm-ok\')"',
        _python("the runtime's own glibc loader starts", "the runtime's own glibc loader does not start"),
        deadline_s=30.0,
    ),
    ShellProbe(
        "memfd_exec",
        _RUNTIME + f'sh "$1" -c "{_MEMFD}"',
        _python("programs can be executed from memory", "memfd_create or executing from it is refused"),
        deadline_s=30.0,
    ),
    ShellProbe(
        "power_rails",
        'for d in $S/sys/bus/iio/devices/iio:device*; do [ -e "$d/name" ] || continue; '
        'r=$(cat "$d/enabled_rails" 2>/dev/null && cat "$d/energy_value" >/dev/null 2>&1); '
        'echo "$(cat "$d/name")|$(echo $r)"; done',
        _rails,
    ),
    ShellProbe("power_stats", "dumpsys android.hardware.power.stats.IPowerStats/default", _power_stats),
    ShellProbe(
        "thermal_zones",
        'for z in $S/sys/class/thermal/thermal_zone*; do [ -e "$z/type" ] || continue; '
        'echo "$(cat "$z/type")|$(cat "$z/temp" 2>/dev/null)"; done',
        _thermal_zones,
    ),
    ShellProbe(
        "battery",
        'for f in $S/sys/class/power_supply/battery/*; do [ -f "$f" ] || continue; '
        'v=$(cat "$f" 2>/dev/null) || v=denied; echo "${f##*/}|$(echo $v)"; done',
        _battery,
    ),
    ShellProbe("battery_service", "dumpsys battery", _battery_service),
    ShellProbe("battery_stats", "dumpsys batterystats --checkin 2>/dev/null | head -n 3", _battery_stats),
    ShellProbe("thermal_service", "dumpsys thermalservice", _thermal_service),
    ShellProbe(
        "npu_libraries",
        "ls -d /vendor/lib64/libcdsprpc.so /vendor/lib64/libQnnHtp*.so /system/vendor/lib64/libcdsprpc.so "
        "/vendor/lib64/libedgetpu*.so /vendor/lib64/libneuron*.so 2>/dev/null",
        _npu,
    ),
    ShellProbe(
        "clusters",
        'for c in $S/sys/devices/system/cpu/cpu[0-9]*/cpufreq; do [ -d "$c" ] || continue; '
        'echo "$(cat "$c/cpuinfo_min_freq")|$(cat "$c/cpuinfo_max_freq")"; done',
        _clusters,
    ),
    ShellProbe("memory", "cat /proc/meminfo", _memory),
    ShellProbe("free_space", 'df -P -k "${ANDROID_DATA:-/data}/local/tmp"', _space, stable=False),
    ShellProbe("screen", "dumpsys power | grep mWakefulness=", _screen, stable=False),
)
