"""Packages of Debian for another kind of processor, from the sources that this machine is set up for.

apt works in a folder of its own: the system's package lists, architectures and packages stay as they are, and
nothing is installed. apt checks the signatures.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mobifarm.controller.provisioning.packing.commands import DownloadError, Report, run_command

# Nothing that a phone's Python needs has another kind of name; without this limit perl would come along.
_WANTED: Final = re.compile(r"(lib|zlib|python3)[a-z0-9.+-]*")
_PYTHON: Final = re.compile(r"python(3\.\d+)-minimal")
_ROOTS: Final = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgcc-s1")
_DEPENDS: Final = re.compile(r"^ [ |](?:Pre)?Depends: ([a-z0-9.+-]+)$", re.MULTILINE)
_ADDRESS: Final = re.compile(r"^'[^']+' (\S+\.deb) (\d+) SHA256:([0-9a-f]{64})$", re.MULTILINE)
_DEADLINE_S: Final = 600

# The machine's own hooks are for its own packages. Without the caches, which some machines turn off, every
# question costs a second.
_CONFIGURATION: Final = """\
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::Retries "2";
Acquire::Languages "none";
"""


@dataclass(frozen=True, slots=True)
class Package:
    """A package's file, as Debian's signed lists describe it."""

    file_name: str
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return self.file_name.partition("_")[0]


class DebianPackages:
    """Debian for ``architecture`` in ``folder``, which keeps what was downloaded."""

    def __init__(self, folder: Path, architecture: str, report: Report) -> None:
        self._folder = folder
        self._architecture = architecture
        self._report = report
        self._packages = folder / "packages"
        self._configuration = folder / "apt.conf"
        for part in ("state/lists/partial", "cache/archives/partial", "packages"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        self._configuration.write_text(_CONFIGURATION.format(folder=folder, architecture=architecture))

    def fetch_python(self, *, anew: bool) -> list[Package]:
        """Download Python and what it needs where that is not here yet.

        ``anew`` asks for the newest; else what is known stays, as long as it can be had.

        Raises:
            DownloadError: the packages cannot be had; the message says what to check.
        """
        if anew or not any((self._folder / "state" / "lists").glob("*_Packages*")):
            self._update()
            return self._fetch()
        try:
            return self._fetch()
        except DownloadError:
            # Debian replaces packages; its lists of yesterday name files that are gone.
            self._update()
            return self._fetch()

    def unpack(self, packages: list[Package], target: Path) -> None:
        """Unpack downloaded packages into the empty folder ``target``; none of their scripts runs.

        Raises:
            HostError: a package is damaged or ``dpkg-deb`` is missing.
        """
        for package in packages:
            path = self._packages / package.file_name
            run_command(["dpkg-deb", "-x", path, target], f"unpack {path.name}", _DEADLINE_S)

    def _update(self) -> None:
        self._report(f"asking Debian for its list of {self._architecture} packages")
        # A source that fails may be one that has no such packages; whether enough came shows below.
        with contextlib.suppress(DownloadError):
            self._apt("apt-get", "update", what="read Debian's package lists")

    def _fetch(self) -> list[Package]:
        packages = self._find()
        missing = [package for package in packages if not self._is_here(package)]
        if missing:
            size = sum(package.size_bytes for package in missing) / 1e6
            self._report(f"downloading {len(missing)} packages of Debian ({size:.0f} MB)")
            for package in missing:
                (self._packages / package.file_name).unlink(missing_ok=True)
            names = [package.name for package in missing]
            what = f"download Debian's {self._architecture} packages"
            self._apt("apt-get", "download", *names, what=what, folder=self._packages)
        damaged = [package.name for package in packages if not self._is_here(package)]
        if damaged:
            raise DownloadError(f"these packages of Debian arrived damaged: {', '.join(damaged)}; retry")
        kept = {package.file_name for package in packages}
        for path in self._packages.iterdir():
            if path.name not in kept:
                path.unlink()
        return packages

    def _find(self) -> list[Package]:
        found: set[str] = set()
        pending = {*_ROOTS}
        what = f"find Python for {self._architecture} in this machine's package sources"
        while pending:
            found |= pending
            text = self._apt("apt-cache", "depends", *sorted(pending), what=what)
            pending = {name for name in _DEPENDS.findall(text) if _WANTED.fullmatch(name)} - found
        # Not among the packages: of those that lie there apt tells nothing.
        text = self._apt("apt-get", "download", "--print-uris", *sorted(found), what=what)
        return sorted(
            (Package(name, int(size), sha256) for name, size, sha256 in _ADDRESS.findall(text)),
            key=lambda package: package.file_name,
        )

    def _is_here(self, package: Package) -> bool:
        try:
            with (self._packages / package.file_name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == package.sha256
        except FileNotFoundError:
            return False

    def _apt(self, program: str, *arguments: str, what: str, folder: Path | None = None) -> str:
        return run_command(
            [program, "-c", self._configuration, *arguments],
            f"{what} (is the network there, and is this Debian?)",
            _DEADLINE_S,
            folder or self._folder,
            DownloadError,
        )


def python_version(packages: list[Package]) -> str:
    """Which Python is among the packages, such as ``3.11``.

    Raises:
        DownloadError: none is.
    """
    for package in packages:
        if match := _PYTHON.fullmatch(package.name):
            return match[1]
    raise DownloadError("this machine's package sources have no Python for arm64; retry on a Debian machine")
