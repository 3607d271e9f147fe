"""Where the phone's files are: the sandbox's own root, or a directory of the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

_TOP_LEVEL = ("data", "sys", "system", "apex")


@dataclass(frozen=True, slots=True)
class PhoneRoot:
    """Maps the paths that a host names to paths that adbd can open.

    ``directory`` is None inside the sandbox. Otherwise Android's top-level folders are looked up below it and
    all other paths are taken as they are.
    """

    directory: str | None = None

    def resolve(self, path: str) -> str:
        """The path to open for ``path``; relative paths start at the root."""
        absolute = path if path.startswith("/") else f"/{path}"
        if self.directory is None:
            return absolute
        parts = PurePosixPath(absolute).parts
        if absolute == "/":
            return self.directory
        if len(parts) > 1 and parts[1] in _TOP_LEVEL and not self.contains(absolute):
            return self.directory + absolute
        return absolute

    def contains(self, path: str) -> bool:
        """True for an absolute path at or below the host directory."""
        return self.directory is not None and (path + "/").startswith(self.directory.rstrip("/") + "/")
