"""What lies in the user's cache, and what of it nobody has used for a while.

Only what comes again by itself is ever removed: an agent's runtime is packed anew, a fetched bundle fetched
anew. Bundles that somebody built stay, and nothing that belongs to results lies here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from mobifarm.controller.errors import HostError

RUNTIMES: Final = "runtimes"
FETCHED: Final = "fetched-bundles"
BUILT: Final = "bundles"
_SCRATCH: Final = ".new-"


class Kind(StrEnum):
    """What it is, in words for people."""

    RUNTIME = "agent runtime"
    DOWNLOADS = "downloads for agent runtimes"
    FETCHED = "fetched model bundle"
    BUILT = "built model bundle"
    OTHER = "other"


PRUNED: Final = frozenset({Kind.RUNTIME, Kind.FETCHED})


@dataclass(frozen=True, slots=True)
class Stored:
    """A file or a folder of the cache; ``used_at`` is unix time of its last use, or of its last change."""

    kind: Kind
    path: Path
    size_bytes: int
    used_at: float


def mark_used(path: Path) -> None:
    """Note that it is used now; where that cannot be written it merely looks older."""
    with contextlib.suppress(OSError):
        os.utime(path)


def stored(cache: Path) -> list[Stored]:
    """Everything in the cache, by kind and path. Raises HostError where it cannot be read."""
    try:
        return sorted(_stored(cache), key=lambda one: (one.kind, one.path))
    except OSError as error:
        raise HostError(f"the cache {cache} cannot be read: {error}") from error


def prune(cache: Path, *, unused_since: float, dry_run: bool = False) -> list[Stored]:
    """Remove runtimes and fetched bundles that nobody has used since this unix time.

    Args:
        dry_run: remove nothing.

    Returns:
        What was removed, or would be.

    Raises:
        HostError: something cannot be removed; what was removed before stays so.
    """
    old = [one for one in stored(cache) if one.kind in PRUNED and one.used_at < unused_since]
    if dry_run:
        return old
    try:
        runtimes = [one for one in old if one.kind is Kind.RUNTIME]
        bundles = [one for one in old if one.kind is Kind.FETCHED]
        return _remove_runtimes(cache / RUNTIMES, runtimes, unused_since) + [
            one for one in bundles if _remove_bundle(one, unused_since)
        ]
    except OSError as error:
        raise HostError(f"the cache {cache} cannot be cleaned: {error}") from error


def _stored(cache: Path) -> Iterator[Stored]:
    for folder in _entries(cache):
        if not folder.is_dir():
            continue
        if folder.name == RUNTIMES:
            for path in _entries(folder):
                if path.name.endswith(".tar.gz") or path.name.startswith(_SCRATCH):
                    yield _one(Kind.RUNTIME, path)
                elif path.is_dir():
                    yield _one(Kind.DOWNLOADS, path)
        elif folder.name in (FETCHED, BUILT):
            kind = Kind.FETCHED if folder.name == FETCHED else Kind.BUILT
            yield from (_one(kind, path) for path in _entries(folder) if path.is_dir())
        else:
            yield _one(Kind.OTHER, folder)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _one(kind: Kind, path: Path) -> Stored:
    status = path.stat()
    size, used_at = (0 if path.is_dir() else status.st_size), status.st_mtime
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a transfer goes on
                inside = Path(directory, name).lstat()
                size += inside.st_size
                used_at = max(used_at, inside.st_mtime)
    return Stored(kind, path, size, used_at)


def _remove_runtimes(folder: Path, old: Sequence[Stored], unused_since: float) -> list[Stored]:
    """Those that were removed: none while one is made, which may use them."""
    removed: list[Stored] = []
    if not old:
        return removed
    with _alone(folder / ".lock") as alone:
        for one in old if alone else ():
            if _one(one.kind, one.path).used_at < unused_since:
                one.path.unlink()
                removed.append(one)
        for record in folder.glob("*.txt") if removed else ():  # they name archives by what is packed there
            if not (folder / f"{record.read_text().strip()}.tar.gz").exists():
                record.unlink()
    return removed


def _remove_bundle(one: Stored, unused_since: float) -> bool:
    """Whether it was removed: not where it comes just now, or somebody has begun to use it."""
    bundle = one.path.name.removesuffix(".part")
    with _alone(one.path.with_name(f"{bundle}.lock")) as alone:
        if not alone or not one.path.is_dir() or _one(one.kind, one.path).used_at >= unused_since:
            return False
        part = one.path.with_name(f"{bundle}.part")
        if (
            part != one.path
        ):  # half a folder must not look like a whole bundle: so it is gone on with, or ended
            shutil.rmtree(part, ignore_errors=True)
            one.path.rename(part)
        shutil.rmtree(part)
        return True


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Whether nobody else makes or fetches what this lock is of."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
