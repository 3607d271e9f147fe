"""Needed libraries of real and of damaged ELF files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.provisioning.packing.elf import needed_libraries


def library(names: list[str], dynamic: bool = True) -> bytes:
    """A minimal AArch64 library whose string table is loaded at 0x10000."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    offsets, place = [], 1
    for name in names:
        offsets.append(place)
        place += len(name) + 1
    entries = [(1, offset) for offset in offsets] + [(5, 0x10000), (0, 0), (1, 1)]
    table = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    start = 64 + 2 * 56
    segments = struct.pack("<IIQQQQQQ", 1, 4, start, 0x10000, 0, len(strings), len(strings), 0)
    segments += struct.pack(
        "<IIQQQQQQ", 2 if dynamic else 0, 4, start + len(strings), 0, 0, len(table), len(table), 0
    )
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 183, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    return header + segments + strings + table


def needed_of(folder: Path, data: bytes) -> list[str]:
    path = folder / "file.so"
    path.write_bytes(data)
    return needed_libraries(path)


def test_names_until_the_end_of_the_table(tmp_path: Path) -> None:
    assert needed_of(tmp_path, library(["libc.so.6", "libm.so.6"])) == ["libc.so.6", "libm.so.6"]
    assert needed_of(tmp_path, library([], dynamic=False)) == []


def test_a_real_library() -> None:
    import onnxruntime

    (path,) = Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*.so")
    found = needed_libraries(path)
    assert "libc.so.6" in found
    assert len(found) == len(set(found))
    assert all(name.startswith(("lib", "ld-")) for name in found)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for data in (b"", b"#!/bin/sh\n" * 20, b"\x7fELF\x01\x01" + bytes(100)):
        with pytest.raises(ValueError):
            needed_of(tmp_path, data)


def test_an_offset_that_no_file_has_is_damage(tmp_path: Path) -> None:
    data = bytearray(library(["libc.so.6"]))
    data[39] = 128  # the highest byte of where the segments are
    with pytest.raises(ValueError, match="is damaged"):
        needed_of(tmp_path, bytes(data))


@given(st.data())
def test_a_damaged_file_is_refused_or_read_but_breaks_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = bytearray(library(["libc.so.6", "libgcc_s.so.1"]))
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=4)):
        good[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        found = needed_of(tmp_path_factory.mktemp("elf"), bytes(good[:cut]))
    except ValueError:
        return
    assert all(isinstance(name, str) for name in found)
