"""The agent runs on a phone, where nothing but its own few dependencies is installed."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import importlib, pkgutil, sys

OWN = {"mobifarm.agent", "mobifarm.v1"}

class Wall:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top == "mobifarm" and name != top and not any(name == o or name.startswith(o + ".") for o in OWN):
            raise ImportError(f"wall: {name}")
        if top == "prometheus_client":
            raise ImportError(f"wall: {name}")
        if "torch" in name or top in {"ray", "transformers", "pydantic", "typer", "rich", "yaml", "httpx"}:
            raise ImportError(f"wall: {name}")
        return None

sys.meta_path.insert(0, Wall())
import mobifarm.agent

names = ["mobifarm.agent.editor", "mobifarm.agent.main"]
names += [m.name for m in pkgutil.walk_packages(mobifarm.agent.__path__, "mobifarm.agent.")]
for name in names:
    importlib.import_module(name)
print(len(names))
for name in ("ray", "torch", "mobifarm.controller", "mobifarm.workloads"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(f"the wall let {name} through")
"""


def test_every_module_of_the_agent_imports_without_the_farm():
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 20
