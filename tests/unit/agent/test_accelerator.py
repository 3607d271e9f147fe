"""When the worker of a neural processor is let go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mobifarm.agent.accelerator import Accelerator
from mobifarm.agent.backends.cpu import CpuBackend


def test_a_bundle_without_graphs_lets_the_worker_go(tmp_path: Path) -> None:
    closed = []

    class Backend(CpuBackend):
        def close(self) -> None:
            closed.append(self)

    accelerator = Accelerator(tmp_path)
    accelerator._backend = backend = Backend()
    bundle: Any = SimpleNamespace(attach=lambda npu: None, manifest=SimpleNamespace(extras={}))
    for _ in range(2):
        accelerator.attach(bundle, tmp_path)
    assert closed == [backend]
    assert "no graphs" in accelerator.reason
