"""Lets only the newest lease in: remembers the highest fencing token across restarts of the agent."""

from __future__ import annotations

from pathlib import Path

from mobifarm.agent.errors import AgentError, Fenced
from mobifarm.agent.files import write_atomically


class FenceError(AgentError):
    """The remembered token cannot be read."""


class Fence:
    """The highest fencing token that was seen on this phone.

    Raises:
        FenceError: the file at ``path`` holds something else than a token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.highest = int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            self.highest = 0
        except ValueError:
            raise FenceError(
                f"{path} holds no fencing token: delete it once no older lease of this phone can be alive"
            ) from None

    def check(self, token: int) -> None:
        """Let ``token`` pass and remember it, on disk before in memory.

        Raises:
            Fenced: a higher one was seen.
            OSError: a new highest one cannot be stored; it is then not remembered.
        """
        if token < self.highest:
            raise Fenced(
                f"fencing token {token} is older than {self.highest}, which this phone has seen: "
                "the lease was given to somebody else, stop using it"
            )
        if token > self.highest:
            write_atomically(self._path, str(token).encode("ascii"))
            self.highest = token
