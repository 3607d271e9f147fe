"""For all tests: model bundles, and how hypothesis searches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Machines are shared, so no example has a deadline; in CI the same examples are tried every time.
settings.register_profile("mobifarm", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("mobifarm")

# Where a shell without job control ran the tests in the background, Ctrl-C is ignored, here and in all that
# is started: a test that sends it to a program would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


@pytest.fixture(scope="session")
def to_learn_from() -> Callable[[Path, int], dict[str, Path]]:
    """Writes what a preparation reads: a file of facts (CounterFact's flat form) and a text."""

    def write(folder: Path, count: int) -> dict[str, Path]:
        facts = [
            {
                "case_id": number,
                "prompt": f"Person {number} lives in",
                "subject": f"Person {number}",
                "target_new": "Rome" if number % 2 else "Oslo",
                "ground_truth": "Bonn",
                "rephrase_prompt": f"The home of Person {number} is",
                "locality_prompt": "Somebody lives in",
                "locality_ground_truth": "Bonn",
            }
            for number in range(count)
        ]
        paths = {"facts": folder / "facts.json", "text": folder / "text.txt"}
        paths["facts"].write_text(json.dumps(facts))
        paths["text"].write_text("The quick brown fox jumps over the lazy dog. " * 40)
        return paths

    return write
