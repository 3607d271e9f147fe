"""How a browser becomes a caller: a key that opens the live page once, and the session that it becomes.

A browser cannot send a token with every request, and an address with a token in its query ends up in logs. So
the address of the page carries a key after ``#``, which no browser sends. The page exchanges it, or a token
that a person types, for a cookie that no script can read. A session lives as long as the farm's process, and
may never do more than the token behind it, which is asked again with each request.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from mobifarm.controller.api.access import TOKEN_BYTES, Caller, Role

KEY_LIFETIME_S: Final = 3600.0
MOST: Final = 256  # keys and sessions at a time; the oldest go first

SAFE_METHODS: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class _Grant:
    """What a key or a session allows: what its token does, and no more than ``role``."""

    authorization: str
    role: Role
    ends_at: float = 0.0


class Sessions:
    """Keys and sessions of one farm, in memory only. ``clock`` is in seconds."""

    def __init__(self, authenticate: Callable[[str], Caller | None], clock: Callable[[], float]) -> None:
        self._authenticate = authenticate
        self._clock = clock
        self._keys: dict[str, _Grant] = {}
        self._sessions: dict[str, _Grant] = {}

    def make_key(self, authorization: str, role: Role) -> str:
        """A key that opens the page once within an hour; ``authorization`` is the header of who asks."""
        now = self._clock()
        for old in [key for key, grant in self._keys.items() if grant.ends_at <= now]:
            del self._keys[old]
        return _keep(self._keys, _Grant(authorization, role, now + KEY_LIFETIME_S))

    def open_with_key(self, key: str) -> tuple[str, Caller] | None:
        """The secret of a new session and whose it is; None where the key is unknown, used or too old."""
        grant = self._keys.pop(key, None)
        if grant is None or grant.ends_at <= self._clock():
            return None
        return self._open(grant)

    def open_with_token(self, token: str) -> tuple[str, Caller] | None:
        """The same for the token of a person; None where it is nobody's."""
        return self._open(_Grant(f"Bearer {token}", Role.OPERATOR))

    def _open(self, grant: _Grant) -> tuple[str, Caller] | None:
        caller = self._caller(grant)
        return None if caller is None else (_keep(self._sessions, grant), caller)

    def caller(self, session: str) -> Caller | None:
        """Whose session this is; None where it has ended or its token was revoked."""
        grant = self._sessions.get(session)
        return self._caller(grant) if grant else None

    def close(self, session: str) -> None:
        self._sessions.pop(session, None)

    def _caller(self, grant: _Grant) -> Caller | None:
        caller = self._authenticate(grant.authorization)
        if caller is None:
            return None
        return replace(caller, role=min(caller.role, grant.role, key=list(Role).index))


def _keep(grants: dict[str, _Grant], grant: _Grant) -> str:
    while len(grants) >= MOST:
        del grants[next(iter(grants))]
    secret = secrets.token_urlsafe(TOKEN_BYTES)
    grants[secret] = grant
    return secret


def cookie_name(port: int) -> str:
    """Browsers do not tell ports apart when they send cookies, and several farms may run on a machine."""
    return f"mobifarm-session-{port}"


def comes_from_the_page(method: str, headers: Mapping[str, str], scheme: str) -> bool:
    """Whether a browser's request was made by a page of this very address.

    Other programs' pages on other ports of this machine count as the same site, so that the cookie's
    ``SameSite`` does not keep them out. A request that changes something must prove where it comes from.
    """
    fetch_site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if fetch_site is not None and fetch_site not in ("same-origin", "none"):
        return False
    if origin is not None:
        return (urlsplit(origin).scheme, urlsplit(origin).netloc) == (scheme, headers.get("host"))
    return method in SAFE_METHODS or fetch_site == "same-origin"
