"""What the names of model bundles say. Pure."""

from __future__ import annotations

import shlex


def build_command(name: str) -> str:
    """What a person types to build the bundle of this name."""
    # The suffixes are those of npu.build_npu_bundle.
    for suffix, quantisation in (("-npu-w8a8", "w8a8"), ("-npu", "w8a16")):
        if name.endswith(suffix):
            return f"mobifarm models build {shlex.quote(name.removesuffix(suffix))} --npu {quantisation}"
    return f"mobifarm models build {shlex.quote(name)}"
