"""The farm's door as seen from a machine that joins; see :mod:`mobifarm.controller.farm.door`."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from mobifarm.controller.errors import HostError, UserError, WorkloadError
from mobifarm.controller.farm.door import DEFAULT_PORT, NO_BUNDLE, STILL_JOINED, ray_tls_files
from mobifarm.controller.farm.versions import versions

CALL_DEADLINE_S: Final = 10.0  # also the longest silence while a file comes
CHUNK_BYTES: Final = 1 << 20


class StillJoined(UserError):
    """A host of this name belongs to the farm: perhaps this one, of a moment ago."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the farm tells a machine that may join; ``session`` is that of this run of the farm."""

    session: str
    join_id: str
    ray_address: str
    ray_token: str


class FarmDoor:
    """The farm's door as seen from here; see :mod:`mobifarm.controller.farm.door`.

    Raises (all methods):
        UserError: the farm refuses it; the message is its own.
        HostError: it does not answer.
    """

    def __init__(self, head: str, token: str) -> None:
        address, _, port = head.partition(":")
        tls = ray_tls_files()
        verify: ssl.SSLContext | bool = False
        if tls is not None:
            verify = ssl.create_default_context(cafile=tls[2])
            verify.check_hostname = False  # the farm's own authority vouches, as it does for Ray
            verify.load_cert_chain(tls[0], tls[1])
        self._head = head
        self._http = httpx.Client(
            base_url=f"{'https' if tls else 'http'}://{address}:{port or DEFAULT_PORT}",
            headers={"authorization": f"Bearer {token}"},
            timeout=CALL_DEADLINE_S,
            trust_env=False,  # a proxy must not see the token
            verify=verify,
        )

    def close(self) -> None:
        self._http.close()

    def ask(self, name: str) -> Ticket:
        """Ask to become the host ``name``. Raises StillJoined where one of this name is there."""
        answer = self._request("POST", {"name": name, "versions": versions()})
        try:
            return Ticket(**answer)
        except TypeError:
            raise HostError(f"what answers at {self._head} is no farm that hosts can join") from None

    def leave(self, name: str, join_id: str) -> None:
        """Say that this machine is a host no longer."""
        self._request("DELETE", {"name": name, "join_id": join_id})

    def session(self) -> str:
        return str(self._request("GET").get("session"))

    def fetch(
        self, model: str, bundle_hash: str, name: str, target: Path, more: Callable[[int], None]
    ) -> None:
        """Add to the file ``target`` what it lacks of this file of a bundle.

        Args:
            more: told the bytes that have come; what it raises ends the transfer.

        Raises:
            WorkloadError: the farm's machine does not have this bundle.
            OSError: the file cannot be written.
        """
        there = target.stat().st_size if target.exists() else 0
        url = f"/bundles/{bundle_hash}/{quote(name, safe='')}"
        headers = {"range": f"bytes={there}-"} if there else {}
        try:
            with self._http.stream("GET", url, params={"model": model}, headers=headers) as answer:
                if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return  # all of it is there
                if not answer.is_success:
                    answer.read()
                    message = _error_of(answer)
                    raise WorkloadError(message) if answer.status_code == NO_BUNDLE else UserError(message)
                resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
                with target.open("ab" if resumed else "wb") as file:
                    for chunk in answer.iter_raw(CHUNK_BYTES):
                        file.write(chunk)
                        more(len(chunk))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise HostError(
                f"the farm at {self._head} does not send the model bundle ({error or type(error).__name__})"
            ) from None

    def _request(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._http.request(method, "/join", json=body)
            content: dict[str, Any] = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise HostError(
                f"no farm answers at {self._head} ({error}): start it with `mobifarm up --accept-hosts "
                "ADDRESS`, and look at firewalls and TLS settings"
            ) from None
        except ValueError:
            raise HostError(f"what answers at {self._head} is no farm that hosts can join") from None
        if answer.is_success:
            return content
        message = _error_of(answer)
        if answer.status_code == STILL_JOINED:
            raise StillJoined(message)
        raise UserError(message)


def _error_of(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the farm answered {answer.status_code}"
