"""What the doctor makes of answers: of good ones, and of anything that a phone may say."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.doctor.finding import EVIDENCE_LIMIT, finding
from mobifarm.controller.doctor.probes import SHELL_PROBES, current_sign
from mobifarm.controller.transport.interface import ShellResult

PROBES = {probe.name: probe for probe in SHELL_PROBES}


def parsed(name: str, stdout: str, exit_code: int = 0) -> tuple[str, object]:
    verdict = PROBES[name].parse(ShellResult(exit_code, stdout, ""))
    return verdict.status, verdict.value


@pytest.mark.parametrize(
    ("name", "stdout", "expected"),
    [
        ("soc_model", "SM8650\n", ("ok", "SM8650")),
        ("soc_model", "\n", ("unknown", None)),
        ("kernel", "6.1.25 aarch64\n", ("ok", {"release": "6.1.25", "machine": "aarch64"})),
        ("page_size", "16384\n", ("ok", 16384)),
        ("page_size", "KernelPageSize:        4 kB\n", ("ok", 4096)),
        ("page_size", "getconf: unknown", ("unknown", None)),
        ("selinux", "Enforcing\n", ("ok", "enforcing")),
        ("selinux", "0\n", ("ok", "permissive")),
        ("selinux", "cat: denied", ("unknown", None)),
        ("data_mount", "/dev/dm-1 /data f2fs rw,noexec,nosuid 0 0", ("failed", "noexec")),
        ("data_mount", "/dev/dm-1 /data f2fs rw,nosuid 0 0", ("ok", "exec")),
        ("data_mount", "", ("unknown", None)),
        ("execute", "ran\n", ("ok", True)),
        ("execute", "sh: permission denied", ("failed", False)),
        ("loader", "mobifarm-ok\n", ("ok", True)),
        ("memfd_exec", "Permission denied", ("failed", False)),
        ("power_rails", "s2mpg10-odpm|", ("failed", {"s2mpg10-odpm": []})),
        ("power_rails", "", ("unknown", None)),
        ("power_stats", "Can't find service", ("unknown", None)),
        ("thermal_zones", "cpu-0-0|\nbattery|\n", ("failed", [{"type": "cpu-0-0", "readable": False},
                                                              {"type": "battery", "readable": False}])),
        ("thermal_service", "Thermal Status: 1\n\tTemperature{mValue=3.0, mType=0, mName=AP, mStatus=0}",
         ("ok", {"temperatures": ["AP"]})),
        ("battery_stats", "9,0,i,vers,36,211,UP1A,UP1A\n", ("ok", {"checkin_version": 36})),
        ("npu_libraries", "/vendor/lib64/libcdsprpc.so\n", ("ok", ["/vendor/lib64/libcdsprpc.so"])),
        ("free_space", "F 1 2 A\n/d 9 9 4194304 1% /data", ("ok", 4 << 30)),
        ("free_space", "F\n/d 9 9 1024 99% /data", ("failed", 1 << 20)),
        ("screen", "  mWakefulness=Asleep", ("ok", "asleep")),
        ("memory", "MemTotal:   1024 kB\n", ("ok", 1 << 20)),
        ("clusters", "300000|1800000\n300000|1800000\n500000|2900000\n",
         ("ok", [{"cores": 2, "minimum_khz": 300000, "maximum_khz": 1800000},
                 {"cores": 1, "minimum_khz": 500000, "maximum_khz": 2900000}])),
        ("clusters", "", ("failed", [])),
        ("properties", "", ("failed", None)),
    ],
)  # fmt: skip
def test_answers_of_real_phones_are_read(name: str, stdout: str, expected: tuple[str, object]) -> None:
    assert parsed(name, stdout) == expected


def test_without_a_runtime_the_loader_is_unknown_and_not_broken() -> None:
    assert parsed("loader", "", 9) == ("unknown", None)


def test_properties_that_name_one_phone_are_left_out() -> None:
    text = "[ro.product.model]: [Pixel 8]\n[ro.boot.serialno]: [X1]\n[ro.serialno]: [X1]\n"
    assert parsed("properties", text) == ("ok", {"ro.product.model": "Pixel 8"})


@pytest.mark.parametrize(
    ("raw", "status", "sign"),
    [
        (-500, "discharging", "positive_into_battery"),
        (500, "discharging", "positive_out_of_battery"),
        (500, "charging", "positive_into_battery"),
        (-500, "charging", "unknown"),  # an inverted gauge, or more drawn than the charger gives
        (0, "discharging", "unknown"),
        (None, "", "unknown"),
    ],
)
def test_the_sign_of_the_current_is_told_only_where_one_reading_can(
    raw: int | None, status: str, sign: str
) -> None:
    assert current_sign(raw, status) == sign


def test_a_denied_current_fails_and_names_what_can_be_read() -> None:
    status, value = parsed("battery", "capacity|80\ncurrent_now|denied\nstatus|Charging\n")
    assert status == "failed"
    assert isinstance(value, dict)
    assert (value["readable"], value["denied"]) == (["capacity", "status"], ["current_now"])


@given(st.sampled_from(SHELL_PROBES), st.text(), st.text(), st.integers(0, 255))
def test_whatever_a_phone_says_is_bounded_plain_and_json(
    probe: object, stdout: str, stderr: str, code: int
) -> None:
    result = ShellResult(code, stdout * 50, stderr)
    verdict = probe.parse(result)  # type: ignore[attr-defined]
    found = finding("x", verdict, stdout * 50)
    assert found.status in ("ok", "failed", "unknown")
    assert found.meaning
    assert len(found.evidence) <= EVIDENCE_LIMIT
    assert "\x1b" not in found.evidence
    text = json.dumps(asdict(found), allow_nan=False)
    assert len(text) < 200_000
    assert "\\u001b" not in text


SHAPED = st.lists(
    st.text(alphabet="|=[]:{},.-\n\t 0123456789abcCH(TemperaturemName\x1b", max_size=60), max_size=20
).map("\n".join)


@given(st.sampled_from(SHELL_PROBES), SHAPED)
def test_what_looks_like_an_answer_does_no_harm_either(probe: object, stdout: str) -> None:
    verdict = probe.parse(ShellResult(0, stdout, ""))  # type: ignore[attr-defined]
    text = json.dumps(asdict(finding("x", verdict, stdout)), allow_nan=False)
    assert "\\u001b" not in text
