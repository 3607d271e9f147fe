"""What the runner says of bundles that it does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobifarm.agent.errors import BundleNotFound
from mobifarm.agent.model_runner import ModelRunner


def test_a_bundle_that_is_not_there_comes_with_a_job(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="is not on this phone: run a job with this model there first"):
        ModelRunner(tmp_path, threads=1).edit_shape("ab" * 32)
