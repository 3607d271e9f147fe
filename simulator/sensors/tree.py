"""Writes a phone's sensor files so that their readers never see half a value."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path


class FileTree:
    """Files below a folder that one writer keeps up to date.

    As in /sys, a file stays the same file: a reader may keep it open and read it again from its start.
    """

    def __init__(self, folder: Path, unreadable: Collection[str] = ()) -> None:
        self._folder = folder
        self._unreadable = frozenset(unreadable)
        self._written: dict[str, bytes] = {}

    def clear(self) -> None:
        """Remove all files; the folder itself stays (it may be mounted)."""
        for entry in self._folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self._written.clear()

    def create_unreadable(self) -> None:
        """Make the files that exist but may not be read: opening them gives EACCES."""
        for name in self._unreadable:
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            path.chmod(0)

    def write(self, texts: Mapping[str, str]) -> None:
        """Bring files to these texts; those that may not be read are left alone."""
        for name, text in texts.items():
            data = text.encode()
            old = self._written.get(name)
            if name in self._unreadable or data == old:
                continue
            path = self._folder / name
            if old is None:
                path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444)
            try:
                # A shorter value first overwrites the rest of the old one with line ends, in one write.
                os.pwrite(descriptor, data.ljust(len(old or b""), b"\n"), 0)
                os.ftruncate(descriptor, len(data))
            finally:
                os.close(descriptor)
            self._written[name] = data
