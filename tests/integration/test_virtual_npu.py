"""Virtual Snapdragon phones with their neural processor: it lives and ends with its phone."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobifarm.agent.accelerator import WORKER_SOCKET
from mobifarm.agent.backends import protocol
from mobifarm.agent.backends.worker import SocketLink
from mobifarm.simulator.control import PhoneRecord
from mobifarm.simulator.neural_processor import SOCKET
from mobifarm.simulator.virtual_phones import VirtualPhones

DEADLINE_S = 120.0
PROFILES = ("galaxy-s24", "pixel-8")


@pytest.fixture(scope="module")
def phones() -> Iterator[VirtualPhones]:
    pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's HTP emulator: pip install mobifarm[htp]")
    with VirtualPhones(2, profiles=PROFILES, unsandboxed=True, npu=True) as running:
        yield running


def accelerator(phones: VirtualPhones, phone: PhoneRecord) -> str:
    """What answers where the agent of that phone would ask."""
    with SocketLink(phones.home / phone.name / "data" / SOCKET).connect(DEADLINE_S) as connection:
        protocol.send(connection, protocol.Message({"call": "hello"}))
        return str(protocol.receive(connection).fields["accelerator"])


def ends(pid: int) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], DEADLINE_S)[0])
    finally:
        os.close(descriptor)


def test_the_worker_listens_where_the_agent_looks() -> None:
    assert f"local/tmp/mobifarm/{WORKER_SOCKET}" == SOCKET


def test_snapdragons_have_one_and_a_reboot_starts_it_anew(phones: VirtualPhones) -> None:
    snapdragon, other = phones.phones
    control = phones.control(snapdragon)
    first = control.status()["neural_processor_pid"]
    assert first
    assert phones.control(other).status()["neural_processor_pid"] == 0
    assert not (phones.home / other.name / "data" / SOCKET).exists()
    assert accelerator(phones, snapdragon) == "htp_emulator"
    # No more processors of the computer than the phone has.
    assert len(os.sched_getaffinity(first)) == max(1, len(os.sched_getaffinity(0)) // 2)

    control.power_off()
    assert control.status()["neural_processor_pid"] == 0
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert not (phones.home / snapdragon.name / "data" / SOCKET).exists()
    control.power_on()
    control.request("reboot")
    second = control.status()["neural_processor_pid"]
    assert second not in (0, first)
    assert accelerator(phones, snapdragon) == "htp_emulator"

    os.kill(snapdragon.pid, signal.SIGKILL)
    assert ends(second)


def test_a_missing_emulator_is_said_in_one_sentence(tmp_path: Path) -> None:
    absent = tmp_path / "without"
    absent.mkdir()
    (absent / "onnxruntime_qnn.py").write_text("raise ImportError\n")
    path = os.pathsep.join(part for part in (str(absent), os.environ.get("PYTHONPATH", "")) if part)
    command = [sys.executable, "-m", "mobifarm.simulator.cli", "run", "--unsandboxed", "--npu"]
    done = subprocess.run(
        [*command, "--profile", "galaxy-s24", "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 2
    assert "pip install 'mobifarm[htp]'" in done.stderr
    assert "error: galaxy-s24 has no neural processor" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "home").glob("*.json"))
