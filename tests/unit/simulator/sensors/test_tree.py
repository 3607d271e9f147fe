from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator.sensors.tree import FileTree


@given(values=st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=10))
def test_an_open_file_shows_every_new_value(tmp_path_factory: object, values: list[int]) -> None:
    folder = tmp_path_factory.mktemp("tree")  # type: ignore[attr-defined]
    tree = FileTree(folder)
    tree.write({"a/b": "0\n"})
    with open(folder / "a" / "b") as file:
        for value in values:
            tree.write({"a/b": f"{value}\n"})
            file.seek(0)
            assert file.read() == f"{value}\n"


def test_unreadable_files_exist_with_no_permission(tmp_path: Path) -> None:
    tree = FileTree(tmp_path, ["a/secret"])
    tree.create_unreadable()
    tree.write({"a/secret": "1\n", "a/open": "2\n"})
    assert (tmp_path / "a" / "secret").stat().st_mode & 0o777 == 0
    assert (tmp_path / "a" / "secret").stat().st_size == 0
    assert (tmp_path / "a" / "open").read_text() == "2\n"


def test_clear_keeps_the_folder_itself(tmp_path: Path) -> None:
    inode = tmp_path.stat().st_ino
    tree = FileTree(tmp_path)
    tree.write({"a/b": "0\n", "c": "1\n"})
    tree.clear()
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_ino == inode
    tree.write({"c": "1\n"})
    assert (tmp_path / "c").read_text() == "1\n"
