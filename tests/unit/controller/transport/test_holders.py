from __future__ import annotations

from pathlib import Path

from mobifarm.controller.transport.holders import Holder, holder_of_file, holder_of_port

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:13AD 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1
   1: 0100007F:13AE 0100007F:13AD 01 00000000:00000000 00:00000000 00000000     0        0 4712 1
"""


def process(proc: Path, pid: int, name: str, *targets: str) -> None:
    descriptors = proc / str(pid) / "fd"
    descriptors.mkdir(parents=True)
    (proc / str(pid) / "comm").write_text(f"{name}\n")
    for number, target in enumerate(targets):
        (descriptors / str(number)).symlink_to(target)


def test_who_listens_on_a_port(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(TCP)
    process(tmp_path, 12, "adb", "/dev/null", "socket:[4711]")
    process(tmp_path, 13, "client", "socket:[4712]")
    (tmp_path / "14").mkdir()  # it has just ended
    assert holder_of_port(5037, tmp_path) == Holder(12, "adb")
    assert holder_of_port(5038, tmp_path) is None  # a client's end of a connection listens to nothing


def test_who_has_a_device_open(tmp_path: Path) -> None:
    process(tmp_path, 12, "scrcpy", "/dev/bus/usb/001/007")
    holder = holder_of_file(Path("/dev/bus/usb/001/007"), tmp_path)
    assert str(holder) == "scrcpy (pid 12)"
    assert holder_of_file(Path("/dev/bus/usb/001/008"), tmp_path) is None
