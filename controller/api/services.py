"""What the routes work with, and who may call them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from mobifarm.controller.api.access import Caller, Role
from mobifarm.controller.farm.farm import Farm
from mobifarm.controller.farm.hosts import HostView
from mobifarm.controller.farm.requests import FarmRequests
from mobifarm.controller.store.read import Reader


@dataclass(frozen=True, slots=True)
class Services:
    """The farm behind the API.

    ``metrics`` gives Prometheus' text.
    ``open_reader`` opens a view of the store for one thread; ``authenticate`` tells the caller from an
    ``authorization`` header; ``hosts`` gives the machines with phones.
    """

    metrics: Callable[[], Awaitable[bytes]] = field(kw_only=True)
    farm: Farm
    requests: FarmRequests
    open_reader: Callable[[], Reader]
    authenticate: Callable[[str], Caller | None]
    hosts: Callable[[], Sequence[HostView]] = tuple


class Refused(Exception):
    """The caller may not do this; ``status`` is 401 or 403."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


Farmhouse = Annotated[Services, Depends(services)]
_bearer = HTTPBearer(auto_error=False, description="a token of the farm, see `mobifarm tokens`")


def _caller_who_is(wanted: Role) -> Callable[..., Caller]:
    def check(
        request: Request,
        farm: Farmhouse,
        _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    ) -> Caller:
        caller = farm.authenticate(request.headers.get("authorization", ""))
        if caller is None:
            raise Refused(401, "the farm's token is missing or wrong")
        if not caller.role.allows(wanted):
            raise Refused(
                403,
                f"the token {caller.name} is a {caller.role}'s and this needs a {wanted}'s: "
                f"ask for one (`mobifarm tokens create NAME --role {wanted}`)",
            )
        return caller

    return check


Viewer = Annotated[Caller, Depends(_caller_who_is(Role.VIEWER))]
Submitter = Annotated[Caller, Depends(_caller_who_is(Role.SUBMITTER))]
Operator = Annotated[Caller, Depends(_caller_who_is(Role.OPERATOR))]
