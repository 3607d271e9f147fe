"""What went wrong, in one sentence."""

from __future__ import annotations

import sys

import pytest

from mobifarm.controller.errors import HostError
from mobifarm.controller.provisioning.packing import commands
from mobifarm.controller.provisioning.packing.commands import DownloadError, run_command


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("Reading lists\nE: Unable to locate package x\n", "Unable to locate package x"),
        ("Err:1 http://x InRelease\n  Could not connect\n", "http://x InRelease"),
        (
            "WARNING: a\nERROR: No matching distribution found for numpy==9\n",
            "No matching distribution found for numpy==9",
        ),
        ("Killed\n", "Killed"),
        ("", "no message"),
    ],
)
def test_the_complaint_of_apt_and_pip(text: str, trouble: str) -> None:
    assert commands.last_trouble(text) == trouble


def test_a_failure_is_of_the_kind_that_was_asked_for() -> None:
    with pytest.raises(DownloadError, match="could not fetch it: it broke"):
        run_command(
            [sys.executable, "-c", "import sys; sys.exit('E: it broke')"],
            "fetch it",
            60,
            failure=DownloadError,
        )
    with pytest.raises(HostError, match="could not unpack: no-such-program is missing on this machine"):
        run_command(["no-such-program"], "unpack", 60)
    with pytest.raises(DownloadError, match="could not wait within 0 s"):
        run_command([sys.executable, "-c", "input()"], "wait", 0, failure=DownloadError)


def test_output_is_given_back() -> None:
    assert run_command([sys.executable, "-c", "print('said')"], "speak", 60) == "said\n"
