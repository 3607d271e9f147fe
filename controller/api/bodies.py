"""What requests carry and what answers carry back, where no view of the core says it already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mobifarm.controller.core.views import DeviceView

JsonObject = dict[str, Any]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Submission(Body):
    """An evaluation: the spec as in its YAML file and the records that its data set resolved to."""

    spec: JsonObject
    records: list[JsonObject]
    user: Annotated[
        str | None, Field(description="only the farm's own token may say who; others are who they are")
    ] = None


class NewDevice(Body):
    address: Annotated[
        str, Field(description="tcp:HOST:PORT, usb:BUS-PORT.PORT, or computer for the farm's own")
    ]
    host: Annotated[str, Field(description="the joined host that it is connected to")] = ""


class ChangedTags(Body):
    add: list[str] = []
    remove: list[str] = []


class DeviceTags(BaseModel):
    device_id: str
    tags: list[str]


class Why(Body):
    reason: Annotated[str, Field(max_length=500, description="shown to whoever looks at the phone")]


class ImportedEdits(Body):
    exported: Annotated[str, Field(description="an exported file, in base64")]


class UndoneEdits(Body):
    """Which kept edits of a bundle to undo: some by name, or all."""

    bundle_hash: str
    edit_ids: Annotated[list[str], Field(min_length=1)] | None = None
    all: bool = False

    @model_validator(mode="after")
    def _one_choice(self) -> UndoneEdits:
        if (self.edit_ids is None) != self.all:
            raise ValueError("give either 'edit_ids' as a list of names, or 'all' as true")
        return self


class WantedKey(Body):
    role: Annotated[
        Literal["viewer", "submitter", "operator"] | None, Field(description="the caller's own by default")
    ] = None


class PageKey(BaseModel):
    key: str
    role: str


class SignIn(Body):
    key: Annotated[str | None, Field(description="from the address of the page")] = None
    token: Annotated[str | None, Field(description="of `mobifarm tokens create`")] = None

    @model_validator(mode="after")
    def _one_choice(self) -> SignIn:
        if bool(self.key) == bool(self.token):
            raise ValueError("give either 'key' or 'token'")
        return self


class Problem(BaseModel):
    """Every error: one sentence with the next step."""

    error: str


class Health(BaseModel):
    status: Literal["ok"]
    version: str


class Submitted(BaseModel):
    job_id: str
    trials: int


class Cancelled(BaseModel):
    job_id: str
    state: str


class DeviceId(BaseModel):
    device_id: str


class DeviceState(BaseModel):
    device_id: str
    state: str


class ForgottenDevice(BaseModel):
    """What was taken off the phone and what was left on it, in words; a problem where it was away."""

    device_id: str
    removed: list[str]
    left: list[str]
    freed_bytes: int
    problem: str | None = None


class WhoAmI(BaseModel):
    name: str
    role: str


@dataclass(frozen=True, slots=True)
class DeviceNow(DeviceView):
    """A phone with what was heard of it last; ``live`` is null where nothing was since it connected."""

    live: dict[str, Any] | None = None
