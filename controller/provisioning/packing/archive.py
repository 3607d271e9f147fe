"""Archives that are named by their hash, in the user's cache; the same files give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mobifarm.controller.cache import mark_used

_ELF_MAGIC: Final = b"\x7fELF"
# Of these only the name, size and time are looked at.
_LARGE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Archive:
    """A gzipped tar file; ``hash`` is its SHA-256 and its name on host and phone."""

    hash: str
    path: Path
    size_bytes: int

    @property
    def unpacked_bytes(self) -> int:
        """What its files take on a disk, in whole blocks of 512 bytes and a block a file."""
        with self.path.open("rb") as file:
            # A gzip file ends with the size of what is packed in it.
            file.seek(-4, os.SEEK_END)
            return int.from_bytes(file.read(4), "little")


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive: from a file, or with the given content."""

    name: str
    source: Path | None = None
    content: bytes = b""
    executable: bool = False


def ensure_archive(
    folder: Path, fingerprint: str, members: Callable[[], list[Member]], *, level: int, anew: bool = False
) -> Archive:
    """The archive that was packed for ``fingerprint``, packed now where there is none.

    Args:
        folder: holds archives and, by fingerprint, their hashes.
        fingerprint: changes when the archive's content would.
        members: finds the files to pack.
        level: of gzip, 1 to 9.
        anew: pack in any case.
    """
    record = folder / f"{fingerprint}.txt"
    if not anew:
        try:
            archive_hash = record.read_text()
            path = folder / f"{archive_hash}.tar.gz"
            found = Archive(archive_hash, path, path.stat().st_size)
            mark_used(path)
            return found
        except OSError:
            pass
    archive = pack(folder, members(), level=level)
    scratch = record.with_suffix(".new")
    scratch.write_text(archive.hash)
    scratch.replace(record)
    return archive


def pack(folder: Path, members: Iterable[Member], *, level: int) -> Archive:
    """Write an archive into ``folder``. Distributions may share a file; it is packed once."""
    unique = {member.name: member for member in members}
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as scratch:
        scratch_path = Path(scratch.name)
        try:
            # No name and no time in the gzip header, so that it does not depend on where and when.
            with (
                gzip.GzipFile("", "wb", level, scratch, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
            ):
                for name in sorted(unique):
                    _add(archive, unique[name])
            scratch.flush()
            with scratch_path.open("rb") as written:
                archive_hash = hashlib.file_digest(written, "sha256").hexdigest()
            final = folder / f"{archive_hash}.tar.gz"
            scratch_path.replace(final)
        except BaseException:
            scratch_path.unlink(missing_ok=True)
            raise
    return Archive(archive_hash, final, final.stat().st_size)


def _add(archive: tarfile.TarFile, member: Member) -> None:
    entry = tarfile.TarInfo(member.name)
    entry.mode = 0o755 if member.executable else 0o644
    if member.source is None:
        entry.size = len(member.content)
        archive.addfile(entry, io.BytesIO(member.content))
    else:
        with member.source.open("rb") as file:
            entry.size = os.fstat(file.fileno()).st_size
            archive.addfile(entry, file)


def fingerprint_of(facts: Sequence[object], files: Iterable[Path]) -> str:
    """Changes with the facts and with the files; of large files only their size and time are read."""
    told: list[object] = [*facts]
    for path in files:
        status = path.stat()
        if status.st_size < _LARGE_BYTES:
            told.append([path.name, hashlib.sha256(path.read_bytes()).hexdigest()])
        else:
            told.append([str(path), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Relative name and path of each file below ``folder``, in a fixed order, without compiled Python."""
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for file in sorted(files):
            path = Path(directory, file)
            if path.is_file():
                yield str(path.relative_to(folder)), path


def is_elf(path: Path) -> bool:
    """Whether this is a program or a shared library."""
    if not (path.suffix == ".so" or ".so." in path.name or path.stat().st_mode & stat.S_IXUSR):
        return False
    with path.open("rb") as file:
        return file.read(4) == _ELF_MAGIC
