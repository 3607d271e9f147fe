"""What the routes work with, and who may call them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from mobifarm.controller.api.access import Caller, Role
from mobifarm.controller.api.sessions import Sessions, comes_from_the_page, cookie_name
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.hosts import HostView
from mobifarm.controller.farm.requests import FarmRequests
from mobifarm.controller.store.read import Reader


@dataclass(frozen=True, slots=True)
class Services:
    """The farm behind the API.

    ``metrics`` gives Prometheus' text.
    ``open_reader`` opens a view of the store for one thread; ``authenticate`` tells the caller from an
    ``authorization`` header; ``hosts`` gives the machines with phones, ``clock`` unix seconds.
    """

    metrics: Callable[[], Awaitable[bytes]] = field(kw_only=True)
    farm: Farm
    requests: FarmRequests
    open_reader: Callable[[], Reader]
    authenticate: Callable[[str], Caller | None]
    hosts: Callable[[], Sequence[HostView]] = tuple
    clock: Callable[[], float] = time.time


class Refused(Exception):
    """The caller may not do this; ``status`` is 401 or 403."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


def sessions(request: Request) -> Sessions:
    found: Sessions = request.app.state.sessions
    return found


Farmhouse = Annotated[Services, Depends(services)]
PageSessions = Annotated[Sessions, Depends(sessions)]
_bearer = HTTPBearer(auto_error=False, description="a token of the farm, see `mobifarm tokens`")


def _caller_who_is(wanted: Role) -> Callable[..., Caller]:
    def check(
        request: Request,
        farm: Farmhouse,
        _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    ) -> Caller:
        caller = caller_of(request, farm)
        if caller is None:
            raise Refused(401, "the farm's token is missing or wrong")
        if not caller.role.allows(wanted):
            raise Refused(
                403,
                f"the token {caller.name} has the role {caller.role}, this needs {wanted}: "
                f"ask for one (`mobifarm tokens create NAME --role {wanted}`)",
            )
        return caller

    return check


def caller_of(request: Request, farm: Services) -> Caller | None:
    """Whose request it is now; None of a stranger, or where the token or the session has ended meanwhile."""
    if header := request.headers.get("authorization", ""):
        return farm.authenticate(header)
    return _browser(request)


def _browser(request: Request) -> Caller | None:
    """Who looks at the live page, by the cookie of a session; None for requests of other pages."""
    cookie = request.cookies.get(cookie_name(request.scope["server"][1]))
    if cookie is None or not comes_from_the_page(request.method, request.headers, request.url.scheme):
        return None
    return sessions(request).caller(cookie)


Viewer = Annotated[Caller, Depends(_caller_who_is(Role.VIEWER))]
Submitter = Annotated[Caller, Depends(_caller_who_is(Role.SUBMITTER))]
Operator = Annotated[Caller, Depends(_caller_who_is(Role.OPERATOR))]
