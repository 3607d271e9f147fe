"""The farm's errors: the class says whose move it is; the command line's exit code follows it.

    FarmError            exit 70
    ├── UserError        2   the request is wrong: the message says what to change
    ├── WorkloadError    3   an edit cannot be done as specified; it is a result, never retried
    ├── DeviceError      4   a phone or its link failed: the work is retried elsewhere
    ├── HostError        5   the machine that owns phones failed
    ├── JobCancelled     6   a person cancelled the job that was waited for
    └── Bug              70  an invariant does not hold; please report it

Messages say what happened, on which phone, and what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class FarmError(Exception):
    """Base of all errors that MobiFarm raises on purpose.

    ``action``: what a person should do next, where the message does not say so itself.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str = "", *, action: str = "") -> None:
        super().__init__(message)
        self.action = action


class UserError(FarmError):
    """The user's request is wrong; nothing was changed."""

    exit_code = 2


class WorkloadError(FarmError):
    """The workload cannot be carried out as specified; this is a result."""

    exit_code = 3


class DeviceError(FarmError):
    """A phone or the link to it failed."""

    exit_code = 4


class AuthorisationRequired(DeviceError):
    """The phone waits for a person to accept this farm's ADB key on its screen."""


class NotThere(DeviceError):
    """No phone is at the address: unplugged or switched off, which is no fault of the phone's."""


class LinkLost(DeviceError):
    """The link to the phone went away."""


class Silent(LinkLost):
    """The link is open and the phone says nothing."""


class HostError(FarmError):
    """The machine that owns the phones failed."""

    exit_code = 5


class JobCancelled(FarmError):
    """The job that was waited for was cancelled before all of it was done."""

    exit_code = 6


class Bug(FarmError):
    """An invariant of MobiFarm does not hold."""

    exit_code = 70
