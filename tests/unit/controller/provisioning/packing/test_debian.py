"""Debian's packages, with an apt that is only played."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.errors import HostError
from mobifarm.controller.provisioning.packing import debian
from mobifarm.controller.provisioning.packing.commands import DownloadError
from mobifarm.controller.provisioning.packing.debian import DebianPackages, python_version

DEPENDS = {
    "python3-minimal": ["python3.11-minimal", "dpkg"],
    "libpython3-stdlib": ["libpython3.11-stdlib"],
    "libpython3.11-stdlib": ["libc6", "media-types", "<mime>"],
    "python3.11-minimal": ["zlib1g", "libc6"],
    "libstdc++6": ["libc6"],
    "libgcc-s1": ["libc6"],
    "libc6": ["libgcc-s1"],
    "zlib1g": ["libc6"],
}


class Apt:
    """Answers as apt does; ``version`` is of every package on the mirror, ``listed`` that of the lists."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.version, self.listed = folder, "1", ""
        self.calls: list[str] = []
        self.reachable = True

    def __call__(
        self, command: Sequence[str | Path], what: str, _deadline_s: float, where: Path, *_: Any
    ) -> str:
        program, configuration, arguments = command[0], command[2], [str(word) for word in command[3:]]
        assert (program in ("apt-get", "apt-cache"), command[1]) == (True, "-c")
        assert 'APT::Architecture "arm64"' in Path(configuration).read_text()
        self.calls.append(arguments[0])
        if arguments[0] == "update":
            if not self.reachable:
                raise DownloadError("no network")
            self.listed = self.version
            (self.folder / "state" / "lists" / "deb.debian.org_main_binary-arm64_Packages.lz4").touch()
            return ""
        if not self.listed:
            raise DownloadError(f"could not {what}: no packages found")
        if arguments[0] == "depends":
            return "".join(
                f"{name}\n"
                + "".join(f"  Depends: {other}\n |PreDepends: {other}\n" for other in DEPENDS[name])
                for name in arguments[1:]
            )
        if arguments[1] == "--print-uris":
            return "".join(
                f"'http://deb.debian.org/{name}.deb' {self.file(name)} {len(self.content(name))} "
                f"SHA256:{hashlib.sha256(self.content(name)).hexdigest()}\n"
                for name in arguments[2:]
                if not (where / self.file(name)).exists()
            )
        if self.version != self.listed or not self.reachable:
            raise DownloadError("404")
        for name in arguments[1:]:
            assert not (where / self.file(name)).exists()
            (where / self.file(name)).write_bytes(self.content(name))
        return ""

    def file(self, name: str) -> str:
        return f"{name}_{self.listed}_arm64.deb"

    def content(self, name: str) -> bytes:
        return f"{name} {self.listed}".encode()


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    played = Apt(tmp_path)
    monkeypatch.setattr(debian, "run_command", played)
    return played


def fetch(folder: Path, *, anew: bool = False) -> list[str]:
    packages = DebianPackages(folder, "arm64", lambda _doing: None).fetch_python(anew=anew)
    assert python_version(packages) == "3.11"
    return [package.file_name for package in packages]


def test_python_and_its_libraries_without_the_rest_of_debian(tmp_path: Path, apt: Apt) -> None:
    assert fetch(tmp_path) == sorted(f"{name}_1_arm64.deb" for name in DEPENDS)
    assert {path.name for path in (tmp_path / "packages").iterdir()} == set(fetch(tmp_path))


def test_what_is_there_is_neither_asked_for_nor_downloaded_again(tmp_path: Path, apt: Apt) -> None:
    fetch(tmp_path)
    apt.calls.clear()
    apt.reachable = False
    fetch(tmp_path)
    assert set(apt.calls) == {"depends", "download"}


def test_newer_packages_only_where_asked_for(tmp_path: Path, apt: Apt) -> None:
    fetch(tmp_path)
    apt.version = "2"
    assert "libc6_1_arm64.deb" in fetch(tmp_path)
    assert "libc6_2_arm64.deb" in fetch(tmp_path, anew=True)
    assert not list((tmp_path / "packages").glob("*_1_*"))


def test_a_package_that_debian_replaced_is_looked_up_again(tmp_path: Path, apt: Apt) -> None:
    fetch(tmp_path)
    (tmp_path / "packages" / "libc6_1_arm64.deb").unlink()
    apt.version = "2"
    assert "libc6_2_arm64.deb" in fetch(tmp_path)


def test_a_damaged_package_is_downloaded_again(tmp_path: Path, apt: Apt) -> None:
    fetch(tmp_path)
    damaged = tmp_path / "packages" / "libc6_1_arm64.deb"
    damaged.write_bytes(b"?")
    fetch(tmp_path)
    assert damaged.read_bytes() == b"libc6 1"


def test_without_a_network_it_says_so(tmp_path: Path, apt: Apt) -> None:
    apt.reachable = False
    with pytest.raises(
        DownloadError, match="could not find Python for arm64 in this machine's package sources"
    ):
        fetch(tmp_path)


def test_no_python_no_runtime() -> None:
    with pytest.raises(HostError, match="have no Python for arm64"):
        python_version([])
