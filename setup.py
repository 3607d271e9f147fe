"""Generates the protobuf stubs as a build step; everything else is in pyproject.toml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build import build

ROOT = Path(__file__).parent.resolve()
PROTO_ROOT = ROOT / "protos"


class BuildProtos(Command):
    """Run protoc on protos/mobifarm/v1 and write the stubs beside the .proto files."""

    description = "generate the gRPC and protobuf stubs"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []
    editable_mode = False

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        from importlib.resources import files

        from grpc_tools import protoc

        well_known = str(files("grpc_tools") / "_proto")
        sources = [str(p.relative_to(PROTO_ROOT)) for p in sorted(PROTO_ROOT.rglob("*.proto"))]
        arguments = [
            "protoc",
            f"-I{PROTO_ROOT}",
            f"-I{well_known}",
            f"--python_out={PROTO_ROOT}",
            f"--grpc_python_out={PROTO_ROOT}",
            f"--mypy_out={PROTO_ROOT}",
            f"--mypy_grpc_out={PROTO_ROOT}",
            *sources,
        ]
        if protoc.main(arguments) != 0:
            raise SystemExit("protoc failed; see its messages above")

    def get_source_files(self) -> list[str]:
        return [str(p.relative_to(ROOT)) for p in sorted(PROTO_ROOT.rglob("*.proto"))]

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    """The standard build, with the stubs generated first."""

    sub_commands: ClassVar[list[tuple[str, Callable[[build], bool] | None]]] = [
        ("build_protos", None),
        *build.sub_commands,
    ]


setup(cmdclass={"build_protos": BuildProtos, "build": Build})
