"""Kept edits on disk: durable, undone one by one, and never a reason to crash."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent import kept as kept_module
from mobifarm.agent.editor import stack as stack_module
from mobifarm.agent.editor.stack import EditStack, HeldEdit
from mobifarm.agent.errors import BundleNotFound, DamagedEdits, InputError
from mobifarm.agent.kept import KeptEdits
from mobifarm.agent.runner import EditShape

BUNDLE, OTHER, ABSENT = "a" * 64, "b" * 64, "c" * 64


def shape(bundle_hash: str) -> EditShape:
    if bundle_hash == ABSENT:
        raise BundleNotFound("push it first")
    return EditShape("tiny", 3, 2)


def held(number: int, request_hash: str = "") -> HeldEdit:
    generator = np.random.default_rng(number)
    key, value = (generator.standard_normal(size).astype(np.float32) for size in (3, 2))
    return HeldEdit(f"r{number}", "Ada", "Ada is", "Rex 🐕", "forward", key, value, request_hash)


def stack_of(numbers: Sequence[int], bundle_hash: str = BUNDLE) -> EditStack:
    stack = EditStack.empty(bundle_hash)
    for number in numbers:
        stack = stack.with_edit(held(number))
    return stack


def names(stack: EditStack) -> list[str]:
    return [edit.edit_id for edit in stack]


@pytest.fixture
def kept(tmp_path: Path) -> KeptEdits:
    return KeptEdits(tmp_path, shape)


def file_of(folder: Path, bundle_hash: str = BUNDLE) -> Path:
    return folder / f"{bundle_hash}.edits"


def test_what_is_kept_outlives_the_agent_and_is_the_owners_alone(kept: KeptEdits, tmp_path: Path) -> None:
    assert len(kept.stack(BUNDLE)) == 0
    kept.save(stack_of([1, 2]))
    (tmp_path / f"{BUNDLE}.edits.tmp").write_bytes(b"a crash in the middle")
    again = KeptEdits(tmp_path, shape)
    assert [path.name for path in tmp_path.iterdir()] == [f"{BUNDLE}.edits"]
    assert names(again.stack(BUNDLE)) == ["r1", "r2"]
    assert len(again.stack(OTHER)) == 0
    assert stat.S_IMODE(file_of(tmp_path).stat().st_mode) == 0o600


@given(st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=6), st.data())
def test_undoing_leaves_the_others_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], data: st.DataObject
) -> None:
    kept = KeptEdits(tmp_path_factory.mktemp("edits"), shape)
    kept.save(stack_of(numbers))
    undone = data.draw(st.lists(st.sampled_from(numbers), unique=True))
    left = kept.undo(BUNDLE, [f"r{number}" for number in undone])
    expected = stack_of([number for number in numbers if number not in undone])
    for stack in (left, kept.stack(BUNDLE)):
        assert names(stack) == names(expected)
        for after, before in zip(stack, expected, strict=True):
            np.testing.assert_array_equal(after.key, before.key)
            np.testing.assert_array_equal(after.value, before.value)


def test_undoing_is_all_or_nothing(kept: KeptEdits, tmp_path: Path) -> None:
    kept.save(stack_of([1, 2]))
    with pytest.raises(InputError, match="'x' is not held"):
        kept.undo(BUNDLE, ["r1", "x"])
    assert names(kept.stack(BUNDLE)) == ["r1", "r2"]
    assert kept.undo_all(BUNDLE) == ["r1", "r2"]
    assert kept.undo_all(BUNDLE) == []
    assert list(tmp_path.iterdir()) == []


def test_the_same_request_takes_the_place_of_its_edit_and_another_is_refused(kept: KeptEdits) -> None:
    kept.save(stack_of([1]).with_edit(held(2, "request")))
    assert names(kept.before(BUNDLE, "r2", "request")) == ["r1"]
    assert names(kept.before(BUNDLE, "r3", "request")) == ["r1", "r2"]
    with pytest.raises(InputError, match="'r2' is already held: undo it first"):
        kept.before(BUNDLE, "r2", "another")


def test_a_phone_keeps_so_many_edits_and_no_more(kept: KeptEdits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "EDIT_LIMIT", 2)
    kept.save(stack_of([1, 2]))
    with pytest.raises(InputError, match="no more fit: undo some first"):
        kept.before(BUNDLE, "r3", "")


@pytest.mark.parametrize("damage", [lambda c: c[:-7], lambda c: b"", lambda c: c.replace(b"Ada", b"Bob", 1)])
def test_a_damaged_file_is_told_and_given_up_only_on_request(kept: KeptEdits, tmp_path: Path, damage) -> None:
    kept.save(stack_of([1, 2]))
    kept.save(stack_of([3], OTHER))
    file = file_of(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    for call in (
        lambda: kept.stack(BUNDLE),
        lambda: kept.before(BUNDLE, "r9", ""),
        lambda: kept.undo(BUNDLE, ["r1"]),
        lambda: kept.import_edits(BUNDLE, stack_of([5]).export()),
    ):
        with pytest.raises(DamagedEdits, match="of bundle tiny on this phone are damaged: undo all"):
            call()
    first, second = kept.bundles()
    assert "damaged" in first.problem
    assert (second.problem, [edit.edit_id for edit in second.edits]) == ("", ["r3"])
    assert kept.undo_all(BUNDLE) == []
    assert file.with_suffix(".damaged").exists()
    assert len(kept.stack(BUNDLE)) == 0


def test_a_bundle_that_is_gone_hides_no_other(kept: KeptEdits) -> None:
    kept.save(stack_of([1]))
    kept.save(stack_of([1], ABSENT))
    assert [(one.name, one.problem) for one in kept.bundles()] == [("tiny", ""), ("", "push it first")]
    assert [one.bundle_hash for one in kept.bundles(OTHER)] == [OTHER]
    with pytest.raises(BundleNotFound):
        kept.bundles(ABSENT)
    with pytest.raises(BundleNotFound):
        kept.undo(ABSENT, ["r1"])
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        kept.stack("../../etc")


def test_the_edits_of_a_bundle_that_is_gone_can_be_given_up(kept: KeptEdits, tmp_path: Path) -> None:
    kept.save(stack_of([1, 2], ABSENT))
    assert kept.undo_all(ABSENT) == ["r1", "r2"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BundleNotFound):
        kept.undo_all(ABSENT)
    file_of(tmp_path, ABSENT).write_bytes(b"neither bundle nor edits")
    assert kept.undo_all(ABSENT) == []
    assert [path.suffix for path in tmp_path.iterdir()] == [".damaged"]


def test_an_import_adds_to_what_is_kept_or_changes_nothing(kept: KeptEdits) -> None:
    kept.save(stack_of([1]))
    stack, imported = kept.import_edits("", stack_of([2, 3]).export())
    assert (names(stack), imported) == (["r1", "r2", "r3"], ["r2", "r3"])
    with pytest.raises(InputError, match="'r3' is already held"):
        kept.import_edits(BUNDLE, stack_of([4, 3]).export())
    with pytest.raises(InputError, match="made for bundle bbbb"):
        kept.import_edits(BUNDLE, stack_of([4], OTHER).export())
    assert names(kept.stack(BUNDLE)) == ["r1", "r2", "r3"]


def test_a_full_disk_leaves_what_was_kept(
    kept: KeptEdits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    kept.save(stack_of([1]))
    monkeypatch.setattr(kept_module, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        kept.save(stack_of([1, 2]))
    assert names(kept.stack(BUNDLE)) == ["r1"]
