"""For all tests: model bundles, and how hypothesis searches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Machines are shared, so no example has a deadline; in CI the same examples are tried every time.
settings.register_profile("mobifarm", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("mobifarm")

BUILD_DEADLINE_S = 500


@pytest.fixture(scope="session")
def tiny_bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of four small layers with random int8 weights and one token per byte."""
    from mobifarm.workloads.models.build import build_bundle
    from mobifarm.workloads.models.sources import TinyRandom

    return build_bundle(TinyRandom(), tmp_path_factory.mktemp("bundles")).path


@pytest.fixture(scope="session")
def smollm2_bundle_path() -> Path:
    """SmolLM2-135M-Instruct, int8, out of the user's cache; built there on the first use."""
    from mobifarm.workloads.models.sources import SMOLLM2_NAME
    from mobifarm.workloads.paths import bundles_directory

    # A process of its own: torch and transformers would stay in the tests' memory.
    command = [sys.executable, "-m", "mobifarm.workloads.models.cli", "build", SMOLLM2_NAME]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_DEADLINE_S, check=False)
    assert outcome.returncode == 0, outcome.stderr
    return bundles_directory() / SMOLLM2_NAME
