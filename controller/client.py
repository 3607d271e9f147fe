"""Speaks to a running farm over its HTTP API: :class:`Client` for programs, :class:`FarmClient` for us."""

from __future__ import annotations

import getpass
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx

from mobifarm.controller.errors import DeviceError, FarmError, HostError, UserError
from mobifarm.controller.paths import FarmPaths, farm_paths

if TYPE_CHECKING:
    import pandas

DEADLINE_S = 30.0
LONG_DEADLINE_S = 240.0  # for what takes its time on a phone
STREAM_SILENCE_S = 60.0  # the log says something every 15 s
RECONNECT_S = 1.0
POLL_PERIOD_S = 0.5
NO_FARM = "no farm is running here; start one with `mobifarm up`"


class FarmClient:
    """Requests to the farm whose folder is given, or to the one :meth:`at` an address; a context manager.

    Raises:
        UserError: no farm runs on this folder, or it refuses the request (the message is its own).
        DeviceError: the phone that it is about failed.
        HostError: the farm does not answer.
    """

    def __init__(self, paths: FarmPaths) -> None:
        try:
            running = json.loads(paths.running.read_text())
            token = paths.api_token.read_text().strip()
        except (OSError, ValueError):
            raise UserError(NO_FARM) from None
        self._open(running["url"], token, True)

    @classmethod
    def at(cls, url: str, token: str, certificate: Path | None = None) -> Self:
        """The farm at ``https://HOST:PORT``; ``certificate`` is the file to trust instead of the system's."""
        client = cls.__new__(cls)
        try:
            verify = ssl.create_default_context(cafile=certificate)
            client._open(url, token, verify)
        except (OSError, httpx.InvalidURL) as error:
            raise UserError(f"the farm at {url} cannot be spoken to: {error}") from None
        return client

    def _open(self, url: str, token: str, verify: ssl.SSLContext | bool) -> None:
        self.url = url.rstrip("/")
        self._absent = f"no farm answers at {url}; `mobifarm up` on its machine prints the address"
        self._http = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {token}"},
            timeout=DEADLINE_S,
            verify=verify,
            trust_env=False,  # a proxy must not see the token
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        return self._request("GET", path).json()

    def text(self, path: str) -> str:
        return self._request("GET", path).text

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = DEADLINE_S) -> Any:
        return self._request("POST", path, body, timeout_s).json()

    def delete(self, path: str, *, timeout_s: float = DEADLINE_S) -> Any:
        return self._request("DELETE", path, None, timeout_s).json()

    def lines(self, path: str, *, silence_s: float = STREAM_SILENCE_S) -> Iterator[str]:
        """The lines of a long answer as they come; raises as the class says, also on the way.

        ``silence_s`` without a word count as no answer.
        """
        timeout = httpx.Timeout(DEADLINE_S, read=silence_s)
        try:
            with self._http.stream("GET", path, timeout=timeout) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refusal(answer)
                yield from answer.iter_lines()
        except httpx.ConnectError as error:
            raise UserError(self._unreached(error)) from None
        except httpx.HTTPError as error:
            raise HostError(f"the farm does not answer: {error}") from None

    def _unreached(self, error: BaseException | None) -> str:
        while error is not None:
            if isinstance(error, ssl.SSLError):
                reason = getattr(error, "verify_message", "") or error.reason or "no TLS"
                return (
                    f"no safe connection to {self.url} ({reason}): for a certificate that this computer does "
                    "not know by itself, give its file as certificate="
                )
            error = error.__cause__ or error.__context__
        return self._absent

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout_s: float = DEADLINE_S
    ) -> httpx.Response:
        try:
            answer = self._http.request(method, path, json=body, timeout=timeout_s)
        except httpx.ConnectError as error:
            raise UserError(self._unreached(error)) from None
        except httpx.HTTPError as error:
            raise HostError(f"the farm does not answer: {error}") from None
        if answer.is_success:
            return answer
        raise _refusal(answer)


def _refusal(answer: httpx.Response) -> FarmError:
    try:
        message = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        message = f"the farm answered {answer.status_code}"
    if answer.status_code == 502:
        return DeviceError(message)
    return (UserError if answer.status_code < 500 else HostError)(message)


@dataclass(frozen=True, slots=True)
class FarmEvent:
    """One event of the log: its number, its kind and its fields."""

    number: int
    kind: str
    fields: Mapping[str, Any]


class Client:
    """A farm for Python programs::

        with mobifarm.Client() as farm:
            job_id = farm.submit("personal-facts.yaml")
            farm.wait(job_id)
            frame = farm.frame(job_id)

    Args:
        url: of a farm elsewhere, as ``https://HOST:PORT``; None is the one on this machine.
        token: needed with ``url``; ``mobifarm tokens create`` makes one.
        certificate: file to trust instead of the system's certificates.
        home: folder of the farm on this machine, where it is not the usual one.

    Raises:
        UserError: no farm runs there, or it refuses a request; the message is its own.
        DeviceError: the phone that a request is about failed.
        HostError: the farm does not answer.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        certificate: Path | None = None,
        home: Path | None = None,
    ) -> None:
        if url is None:
            self._farm = FarmClient(farm_paths(home))
        elif token is None:
            raise UserError(f"the farm at {url} wants a token: make one there with `mobifarm tokens create`")
        else:
            self._farm = FarmClient.at(url, token, certificate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._farm.close()

    def submit(self, spec: Path | str | Mapping[str, Any], *, folder: Path | None = None) -> str:
        """Queue an evaluation and return its job's id.

        Args:
            spec: a YAML file, or what would stand in it.
            folder: where the data files of a spec that is no file are looked for; the current one by default.

        Raises:
            UserError: the spec or its data set is wrong; nothing was queued.
        """
        from mobifarm.workloads.datasets import load_records
        from mobifarm.workloads.errors import WorkloadInputError
        from mobifarm.workloads.records import record_to_mapping
        from mobifarm.workloads.spec import parse_spec, read_spec

        try:
            if isinstance(spec, Mapping):
                document, name, folder = dict(spec), "spec", folder or Path()
            else:
                file = Path(spec)
                document, name, folder = read_spec(file), str(file), file.parent
            records = load_records(parse_spec(document, name).dataset, folder)
        except WorkloadInputError as error:
            raise UserError(str(error)) from None
        body = {
            "spec": document,
            "records": [record_to_mapping(record) for record in records],
            "user": getpass.getuser(),
        }
        answer: str = self._farm.post("/api/v1/jobs", body)["job_id"]
        return answer

    def wait(self, job_id: str, timeout_s: float | None = None) -> Mapping[str, Any]:
        """Wait until the job has ended and return it (the fields of ``mobifarm jobs --json``).

        Raises:
            TimeoutError: it has not ended within ``timeout_s``; it goes on.
        """
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if job["finished_at"] is not None:
                return job
            if ends_at is not None and time.monotonic() > ends_at:
                raise TimeoutError(f"{job_id} has not ended within {timeout_s:g} s; it goes on")
            time.sleep(POLL_PERIOD_S)

    def job(self, job_id: str) -> Mapping[str, Any]:
        """How far a job is."""
        found: Mapping[str, Any] = self._farm.get(f"/api/v1/jobs/{quote(job_id, safe='')}")
        return found

    def jobs(self) -> list[Mapping[str, Any]]:
        """All jobs, oldest first."""
        return list(self._farm.get("/api/v1/jobs"))

    def cancel(self, job_id: str) -> None:
        """Cancel a job; results that are in are kept."""
        self._farm.post(f"/api/v1/jobs/{quote(job_id, safe='')}/cancel")

    def devices(self) -> list[Mapping[str, Any]]:
        """Every phone with its state, the reason, and what was heard of it last."""
        return list(self._farm.get("/api/v1/devices"))

    def events(self, job_id: str | None = None, *, after: int = 0) -> Iterator[FarmEvent]:
        """The log from event ``after`` on, and then what happens, as it happens; it never ends by itself.

        A connection that breaks is made again where it stopped.
        """
        while True:
            query = f"?after={after}" + (f"&job={quote(job_id, safe='')}" if job_id else "")
            try:
                for event in _parse_events(self._farm.lines(f"/api/v1/events{query}")):
                    after = event.number
                    yield event
            except HostError:
                time.sleep(RECONNECT_S)

    def results(self, job_id: str) -> list[Mapping[str, Any]]:
        """Every result so far with its passport, in the order of the plan."""
        return list(self._document(job_id)["results"])

    def summary(self, job_id: str) -> Mapping[str, Any]:
        """The tables of ``mobifarm results``: quality and cost by method, phones, attempts, footnotes."""
        found: Mapping[str, Any] = self._document(job_id)["summary"]
        return found

    def frame(self, job_id: str) -> pandas.DataFrame:
        """One row per edit, as in ``mobifarm results --csv``; needs pandas.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("frame() needs pandas: `pip install pandas`, or use results()") from None
        return pandas.DataFrame(self.summary(job_id)["edits"])

    def report(self, job_id: str, *, compare: str | None = None) -> str:
        """The job's report as one HTML page; ``compare`` is another job that is set against it."""
        query = f"?compare={quote(compare, safe='')}" if compare else ""
        return self._farm.text(f"/api/v1/jobs/{quote(job_id, safe='')}/report{query}")

    def _document(self, job_id: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._farm.get(f"/api/v1/jobs/{quote(job_id, safe='')}/results")
        return found


def _parse_events(lines: Iterator[str]) -> Iterator[FarmEvent]:
    """Server-sent events; comments, which keep the connection alive, are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield FarmEvent(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}
