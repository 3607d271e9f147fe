"""Who may ask what of the farm: bearer tokens with a name and a role.

The farm's own token (``api-token``, made anew at each start) is an operator's, for commands on this machine.
Further tokens are kept as hashes in ``tokens.json``: what is read there lets nobody in.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from mobifarm.controller.errors import HostError, UserError

TOKEN_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Role(StrEnum):
    """What a token allows; each role may also do what those before it may."""

    VIEWER = "viewer"  # read everything
    SUBMITTER = "submitter"  # submit jobs, cancel its own
    OPERATOR = "operator"  # everything, also to phones and to other people's jobs

    def allows(self, wanted: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(wanted)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. ``local`` is the command line on the farm's machine, which may name any user."""

    name: str
    role: Role
    local: bool = False


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token without its secret; ``created_at`` is unix time in seconds."""

    name: str
    role: Role
    sha256: str
    created_at: float


class TokenFile:
    """The tokens of a farm's folder (0600); other processes may change it while the farm runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, int, int] | None, Mapping[str, StoredToken]] = (None, {})

    def tokens(self) -> Sequence[StoredToken]:
        """All tokens, oldest first.

        Raises:
            HostError: the file cannot be read.
        """
        return sorted(self._by_hash().values(), key=lambda token: (token.created_at, token.name))

    def create(self, name: str, role: Role, now: float) -> str:
        """Add a token; its secret is returned and stands nowhere else.

        Raises:
            UserError: the name is taken or not usable.
        """
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} is no name for a token: use 1 to 64 letters, digits and . _ @ -")
        with self._changing() as tokens:
            if any(token.name == name for token in tokens):
                raise UserError(f"there is a token {name} already; `mobifarm tokens revoke {name}` ends it")
            secret = secrets.token_urlsafe(TOKEN_BYTES)
            tokens.append(StoredToken(name, role, _hash(secret), now))
        return secret

    def revoke(self, name: str) -> None:
        """End a token; a running farm refuses it from the next request on. Raises UserError: none has it."""
        with self._changing() as tokens:
            kept = [token for token in tokens if token.name != name]
            if len(kept) == len(tokens):
                raise UserError(f"there is no token {name}; `mobifarm tokens` lists them")
            tokens[:] = kept

    def caller(self, secret: str) -> Caller | None:
        """Who holds this secret; None where nobody does."""
        found = self._by_hash().get(_hash(secret))
        return Caller(found.name, found.role) if found else None

    def _by_hash(self) -> Mapping[str, StoredToken]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return {}
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._read[0] != version:
            self._read = (version, {token.sha256: token for token in _parse(self._path)})
        return self._read[1]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[StoredToken]]:
        with open(self._path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = list(self.tokens())
            yield tokens
            temporary = self._path.with_suffix(".new")
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump({"version": 1, "tokens": [asdict(token) for token in tokens]}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)


def authenticator(local_token: str, tokens: TokenFile) -> Callable[[str], Caller | None]:
    """Tells the caller from the value of an ``authorization`` header; None for a stranger."""
    expected = local_token.encode()

    def authenticate(header: str) -> Caller | None:
        scheme, _, secret = header.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            return None
        if hmac.compare_digest(secret.encode(), expected):
            return Caller("operator", Role.OPERATOR, local=True)
        return tokens.caller(secret)

    return authenticate


def _hash(secret: str) -> str:
    # The secret is 256 random bits: a slow hash would protect nothing more.
    return hashlib.sha256(secret.encode()).hexdigest()


def _parse(path: Path) -> list[StoredToken]:
    try:
        entries = json.loads(path.read_text())["tokens"]
        return [
            StoredToken(
                str(entry["name"]), Role(entry["role"]), str(entry["sha256"]), float(entry["created_at"])
            )
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(
            f"the tokens in {path} cannot be read ({error}): "
            "repair the file, or remove it and create them anew"
        ) from error
