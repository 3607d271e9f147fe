"""What belongs into a runtime."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from mobifarm.controller.provisioning.packing.archive import pack
from mobifarm.controller.provisioning.packing.contents import (
    agent_members,
    dependencies,
    dependency_file,
    run_script,
    standard_library,
)


def test_the_agents_archive_holds_the_agent_alone(tmp_path: Path) -> None:
    with tarfile.open(pack(tmp_path, agent_members(), level=1).path) as archive:
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
    assert not [name for name in names if "__pycache__" in name or "htp_worker" in name]


def test_the_agents_dependencies_bring_no_download_clients() -> None:
    found = dependencies()
    assert {"grpcio", "numpy", "onnxruntime", "tokenizers", "protobuf"} <= found.keys()
    assert not found.keys() & {"huggingface-hub", "httpx", "ray", "torch", "requests", "adb-shell"}
    assert all(version[0].isdigit() for version in found.values())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("numpy/linalg/__init__.py", True),
        ("numpy.libs/libopenblas.so", True),
        ("numpy/linalg/tests/test_it.py", False),
        ("numpy-2.4.6.dist-info/RECORD", False),
        ("onnxruntime/capi/libonnxruntime.so.1.32.0", False),
        ("onnxruntime/capi/onnxruntime_pybind11_state.so", True),
        ("grpc/_cython/cygrpc.pyi", False),
        ("../../bin/f2py", False),
    ],
)
def test_files_of_distributions(name: str, wanted: bool) -> None:
    member = dependency_file(name, Path("/x"))
    assert (member is not None) == wanted
    if member:
        assert member.name == f"packages/{name}"


def test_the_standard_library_without_its_tests_and_screens(tmp_path: Path) -> None:
    for name in ("os.py", "test/test_os.py", "json/__init__.py", "config-3.11-x/Makefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    extensions = tmp_path / "lib-dynload"
    extensions.mkdir()
    for name in ("_ssl.so", "_tkinter.so", "_dbm.so", "_gdbm.so", "zlib.so"):
        (extensions / name).touch()
    assert [member.name for member in standard_library(tmp_path, extensions, "3.11")] == [
        "lib/python3.11/os.py",
        "lib/python3.11/json/__init__.py",
        "lib/python3.11/lib-dynload/_ssl.so",
        "lib/python3.11/lib-dynload/zlib.so",
    ]


def test_the_run_script_starts_the_loader_beside_it() -> None:
    script = run_script("ld-linux-aarch64.so.1")
    assert script.executable
    assert b'exec "$here/lib/ld-linux-aarch64.so.1" --library-path "$here/lib"' in script.content
