"""Archives: the same files give the same bytes."""

from __future__ import annotations

import gzip
from pathlib import Path

from mobifarm.controller.provisioning.packing.archive import (
    Member,
    ensure_archive,
    fingerprint_of,
    is_elf,
    pack,
)


def test_archives_do_not_depend_on_when_and_in_which_order_they_are_made(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"text" * 1000)
    members = [Member("b/file", source), Member("a", content=b"1", executable=True)]
    first = pack(tmp_path, members, level=6)
    content = first.path.read_bytes()
    source.touch()
    second = pack(tmp_path, [*reversed(members), members[0]], level=6)
    assert second == first
    assert second.path.read_bytes() == content
    assert first.size_bytes == len(content)
    assert first.unpacked_bytes == len(gzip.decompress(content)) > 4000


def test_an_archive_is_packed_once_for_a_fingerprint(tmp_path: Path) -> None:
    packed: list[str] = []

    def members() -> list[Member]:
        packed.append("")
        return [Member("a", content=b"1")]

    first = ensure_archive(tmp_path, "f", members, level=1)
    assert ensure_archive(tmp_path, "f", members, level=1) == first
    assert len(packed) == 1
    first.path.unlink()
    assert ensure_archive(tmp_path, "f", members, level=1) == first
    assert len(packed) == 2
    assert ensure_archive(tmp_path, "f", members, level=1, anew=True) == first
    assert len(packed) == 3


def test_a_fingerprint_follows_the_content_of_small_files(tmp_path: Path) -> None:
    source = tmp_path / "code.py"
    source.write_text("1")
    first = fingerprint_of(["fact"], [source])
    source.touch()
    assert fingerprint_of(["fact"], [source]) == first
    source.write_text("2")
    assert fingerprint_of(["fact"], [source]) != first
    assert fingerprint_of(["other"], [source]) != fingerprint_of(["fact"], [source])


def test_programs_and_libraries_are_told_by_what_they_hold(tmp_path: Path) -> None:
    library, text, program = tmp_path / "a.so.1", tmp_path / "b.so", tmp_path / "c"
    library.write_bytes(b"\x7fELF...")
    text.write_bytes(b"INPUT(libc.so.6)")
    program.write_bytes(b"\x7fELF...")
    assert [is_elf(path) for path in (library, text, program)] == [True, False, False]
    program.chmod(0o755)
    assert is_elf(program)
