"""Reads from ELF files which shared libraries they need, also of processors that this machine cannot run."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_ENTRY: Final = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


def needed_libraries(path: Path) -> list[str]:
    """File names of the shared libraries that a 64-bit little-endian program or library asks its loader for.

    Raises:
        ValueError: the file is something else, or damaged.
    """
    data = path.read_bytes()
    try:
        return _needed(data)
    except (struct.error, IndexError, OverflowError, StopIteration) as error:
        raise ValueError(f"{path.name} is damaged") from error


def _needed(data: bytes) -> list[str]:
    identity, _, _, _, _, segments_at, _, _, _, size, count, *_ = _HEADER.unpack_from(data)
    if identity[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    segments = [_SEGMENT.unpack_from(data, segments_at + index * size) for index in range(count)]
    entries: list[tuple[int, int]] = []
    for kind, _, offset, _, _, length, _, _ in segments:
        if kind == _PT_DYNAMIC:
            entries += _ENTRY.iter_unpack(data[offset : offset + length - length % _ENTRY.size])
    if not entries:
        return []
    ends = next((index for index, (tag, _) in enumerate(entries) if tag == _DT_NULL), len(entries))
    entries = entries[:ends]
    names = next(value for tag, value in entries if tag == _DT_STRTAB)
    # The table's place is told as an address in memory; the segment that is loaded there holds it.
    table = next(
        names - address + offset
        for kind, _, offset, address, _, length, _, _ in segments
        if kind == _PT_LOAD and address <= names < address + length
    )
    return [_text_at(data, table + value) for tag, value in entries if tag == _DT_NEEDED]


def _text_at(data: bytes, start: int) -> str:
    end = data.find(b"\0", start)
    if not 0 <= start < len(data) or end < 0:
        raise IndexError
    return data[start:end].decode("ascii", errors="replace")
