from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator.image import ImageError, with_interpreter, with_library_directory


def program(interpreter: bytes) -> bytes:
    """An ELF header, one PT_INTERP entry and its text."""
    header = bytearray(64)
    header[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, 1)
    entry = bytearray(56)
    struct.pack_into("<I", entry, 0, 3)
    struct.pack_into("<Q", entry, 8, 120)
    struct.pack_into("<Q", entry, 32, len(interpreter))
    return bytes(header + entry + interpreter) + b"rest"


def test_interpreter_is_replaced_in_place() -> None:
    old = b"/lib64/ld-linux-x86-64.so.2\0"
    changed = with_interpreter(program(old), "/system/bin/linker64")
    assert changed == program(b"/system/bin/linker64".ljust(len(old), b"\0"))


def test_longer_interpreter_and_other_files_are_refused() -> None:
    with pytest.raises(ImageError, match="no room"):
        with_interpreter(program(b"/lib/ld.so\0"), "/system/bin/linker64")
    with pytest.raises(ImageError, match="ELF"):
        with_interpreter(b"#!/bin/sh\n".ljust(64), "/system/bin/linker64")


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_search_directory_is_replaced_at_the_same_length(before: bytes, after: bytes) -> None:
    directories = b"\0/lib/x86_64-linux-gnu/\0/usr/lib/x86_64-linux-gnu/\0/lib/\0"
    changed = with_library_directory(before + directories + after, "/system/lib64")
    assert len(changed) == len(before + directories + after)
    assert changed.removeprefix(before).startswith(b"\0/system/lib64/////////\0/usr/lib/x86_64-linux-gnu/\0")


def test_unknown_loader_is_refused() -> None:
    with pytest.raises(ImageError, match="unknown search path"):
        with_library_directory(b"\0/lib64/\0", "/system/lib64")
