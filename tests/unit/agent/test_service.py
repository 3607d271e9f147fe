"""Which status a caller gets for which error."""

from __future__ import annotations

import grpc
import pytest

from mobifarm.agent import errors
from mobifarm.agent.service import status_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.BundleNotFound("x"), grpc.StatusCode.NOT_FOUND),
        (errors.BundleError("x"), grpc.StatusCode.DATA_LOSS),
        (errors.Busy("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Fenced("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.NotHeld("x"), grpc.StatusCode.NOT_FOUND),
        (errors.StillRunning("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Stopping("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.InternalError("x"), grpc.StatusCode.INTERNAL),
    ],
)
def test_the_class_of_an_error_is_its_status(error: errors.AgentError, code: grpc.StatusCode):
    assert status_of(error) == (code, "x")


def test_a_full_disk_says_what_to_do():
    code, message = status_of(OSError(28, "No space left on device"))
    assert code is grpc.StatusCode.INTERNAL
    assert "No space left on device" in message
    assert "free space" in message


def test_an_unexpected_error_tells_no_details():
    code, message = status_of(KeyError("secret"))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in message
