"""What the names of model bundles say."""

from __future__ import annotations

import pytest

from mobifarm.workloads.models.names import build_command


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tiny-random", "tiny-random"),
        ("tiny-random-npu", "tiny-random --npu w8a16"),
        ("tiny-random-npu-w8a8", "tiny-random --npu w8a8"),
        ("my model-npu", "'my model' --npu w8a16"),
        ("npu", "npu"),
    ],
)
def test_the_command_that_builds_a_bundle(name: str, arguments: str) -> None:
    assert build_command(name) == f"mobifarm models build {arguments}"
