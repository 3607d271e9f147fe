"""What goes into the agent's runtime."""

from __future__ import annotations

import tarfile

import pytest

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.provisioning import runtime


def test_other_processors_have_no_runtime_yet(tmp_path) -> None:
    with pytest.raises(DeviceError, match="no agent runtime for armeabi-v7a phones yet"):
        runtime.ensure_runtime(tmp_path, "armeabi-v7a")


def test_archives_do_not_depend_on_when_they_are_made(tmp_path) -> None:
    members = runtime._agent_members()
    first = runtime._build(tmp_path, members)
    content = first.path.read_bytes()
    second = runtime._build(tmp_path, members)
    assert second == first
    assert second.path.read_bytes() == content


def test_the_agents_archive_holds_the_agent_alone(tmp_path) -> None:
    with tarfile.open(runtime._build(tmp_path, runtime._agent_members()).path) as archive:
        names = archive.getnames()
    assert {"start.py", "mobifarm/__init__.py", "mobifarm/agent/main.py", "mobifarm/v1/agent_pb2.py"} <= set(
        names
    )
    assert names == sorted(names)
    assert {name.split("/")[1] for name in names if name.startswith("mobifarm/")} == {
        "__init__.py",
        "agent",
        "v1",
    }
    assert not [name for name in names if "__pycache__" in name]


def test_the_agents_dependencies_bring_no_download_clients() -> None:
    dependencies = runtime._dependencies()
    assert {"grpcio", "numpy", "onnxruntime", "tokenizers", "protobuf"} <= dependencies
    assert not dependencies & {"huggingface-hub", "httpx", "ray", "torch", "requests", "adb-shell"}
