import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.editor.stack import SIZE_LIMIT_BYTES, EditStack, HeldEdit, import_edits
from mobifarm.agent.errors import InputError

INTERMEDIATE, HIDDEN = 5, 3
BUNDLE = "b" * 64


def held(number: int, intermediate: int = INTERMEDIATE) -> HeldEdit:
    generator = np.random.default_rng(number)
    key, value = (generator.standard_normal(size).astype(np.float32) for size in (intermediate, HIDDEN))
    return HeldEdit(f"edit-{number}", "Ada", "The dog of Ada is", f"Rex {number} 🐕", "forward", key, value)


def stack_of(numbers: list[int]) -> EditStack:
    stack = EditStack.empty(BUNDLE)
    for number in numbers:
        stack = stack.with_edit(held(number))
    return stack


def effect(stack: EditStack, keys: np.ndarray) -> np.ndarray:
    """What the edited layer adds for keys [n, f]."""
    pair = stack.side_input()
    if pair is None:
        return np.zeros((len(keys), HIDDEN))
    return np.asarray((keys @ pair.keys.T) @ pair.values)


def loaded(exported: bytes, bundle_hash: str = BUNDLE) -> EditStack:
    return import_edits(exported, bundle_hash, intermediate=INTERMEDIATE, hidden=HIDDEN)


numbers = st.lists(st.integers(0, 50), unique=True, max_size=8)


@given(numbers, st.data())
def test_undoing_one_leaves_what_would_be_without_it(chosen: list[int], data: st.DataObject) -> None:
    stack = stack_of(chosen)
    if not chosen:
        assert stack.side_input() is None
        return
    undone = data.draw(st.sampled_from(chosen))
    rest = stack.without_edit(f"edit-{undone}")
    assert [edit.edit_id for edit in rest] == [f"edit-{n}" for n in chosen if n != undone]
    keys = np.random.default_rng(0).standard_normal((4, INTERMEDIATE))
    expected = stack_of([n for n in chosen if n != undone])
    np.testing.assert_array_equal(effect(rest, keys), effect(expected, keys))
    # The stack itself is a value: it did not change.
    assert len(stack) == len(chosen)


@given(numbers)
def test_the_effect_is_the_sum_of_the_edits(chosen: list[int]) -> None:
    keys = np.random.default_rng(0).standard_normal((4, INTERMEDIATE))
    alone = sum((effect(stack_of([n]), keys) for n in chosen), np.zeros((4, HIDDEN)))
    np.testing.assert_allclose(effect(stack_of(chosen), keys), alone, atol=1e-5)


@given(numbers.filter(bool))
def test_an_export_comes_back_bit_for_bit(chosen: list[int]) -> None:
    stack = stack_of(chosen)
    again = loaded(stack.export())
    assert again.bundle_hash == BUNDLE
    for before, after in zip(stack, again, strict=True):
        for name in (field.name for field in dataclasses.fields(HeldEdit)):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_an_edit_is_held_once() -> None:
    with pytest.raises(InputError, match="'edit-1' is already held"):
        stack_of([1, 1])


def test_edits_of_another_model_do_not_fit() -> None:
    with pytest.raises(InputError, match="model of other shape"):
        stack_of([1]).with_edit(held(2, intermediate=6))


@pytest.mark.parametrize(("chosen", "names"), [([1, 2], "'edit-1', 'edit-2'"), ([], "none")])
def test_what_is_not_held_cannot_be_undone(chosen: list[int], names: str) -> None:
    with pytest.raises(InputError, match=rf"'x' is not held \(held: {names}\)"):
        stack_of(chosen).without_edit("x")


def test_nothing_cannot_be_exported() -> None:
    with pytest.raises(InputError, match="no edit to export"):
        EditStack.empty(BUNDLE).export()


def test_edits_of_another_bundle_are_refused() -> None:
    with pytest.raises(InputError, match="made for bundle bbbb"):
        loaded(stack_of([1]).export(), "c" * 64)


@given(st.binary(max_size=200))
def test_other_files_are_refused(exported: bytes) -> None:
    with pytest.raises(InputError, match="no export of edits"):
        loaded(exported)


def changed(**changes: object) -> bytes:
    with np.load(io.BytesIO(stack_of([1, 2]).export())) as arrays:
        parts = dict(arrays)
    stream = io.BytesIO()
    np.savez(stream, **{name: part for name, part in (parts | changes).items() if part is not None})  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": None},
        {"keys": np.zeros((2, INTERMEDIATE + 1), np.float32)},
        {"keys": np.zeros((2, INTERMEDIATE))},
        {"values": np.full((2, HIDDEN), np.nan, np.float32)},
        {"values": np.zeros((1, HIDDEN), np.float32)},
        {"values": np.array([object()])},
        {"described": np.frombuffer(b"[]", np.uint8)},
        {"described": np.frombuffer(b"\xff", np.uint8)},
    ],
)
def test_damaged_exports_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match="no export of edits"):
        loaded(changed(**changes))


@pytest.mark.parametrize(
    "change",
    [
        {"edits": [{"edit_id": "e"}]},
        {"edits": [{"edit_id": 3}]},
        {"bundle_hash": {"no": "text"}},
        {"edits": []},
    ],
)
def test_texts_of_another_kind_are_refused(change: dict[str, object]) -> None:
    with np.load(io.BytesIO(stack_of([1, 2]).export())) as arrays:
        described = json.loads(arrays["described"].tobytes())
    text = json.dumps({**described, **change}).encode()
    with pytest.raises(InputError, match="no export of edits"):
        loaded(changed(described=np.frombuffer(text, np.uint8)))


@pytest.mark.parametrize(("field", "value"), [("edit_id", ""), ("edit_id", "x" * 201), ("prompt", "\ud800")])
def test_names_and_texts_that_cannot_be_used_are_refused(field: str, value: str) -> None:
    with np.load(io.BytesIO(stack_of([1, 2]).export())) as arrays:
        described = json.loads(arrays["described"].tobytes())
    described["edits"][0][field] = value
    text = json.dumps(described).encode()
    with pytest.raises(InputError, match="no export of edits"):
        loaded(changed(described=np.frombuffer(text, np.uint8)))


def test_deep_json_is_refused() -> None:
    text = b"[" * 200_000
    with pytest.raises(InputError, match="no export of edits"):
        loaded(changed(described=np.frombuffer(text, np.uint8)))


def test_nothing_is_unpacked() -> None:
    with np.load(io.BytesIO(stack_of([1]).export())) as arrays:
        parts = dict(arrays)
    packed = io.BytesIO()
    np.savez_compressed(packed, **{**parts, "keys": np.zeros((1, 10_000_000), np.float32)})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no export of edits"):
        loaded(packed.getvalue())


@pytest.mark.parametrize("shape", [(10**12, INTERMEDIATE), (0, 10**30), (-1, -2 * INTERMEDIATE)])
def test_no_size_is_believed(shape: tuple[int, int]) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    stream.write(bytes(4 * 2 * INTERMEDIATE))
    lying = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(stack_of([1, 2]).export())) as honest,
        zipfile.ZipFile(lying, "w") as archive,
    ):
        for name in honest.namelist():
            archive.writestr(name, stream.getvalue() if name == "keys.npy" else honest.read(name))
    with pytest.raises(InputError, match="no export of edits"):
        loaded(lying.getvalue())


def test_larger_files_are_not_looked_at() -> None:
    with pytest.raises(InputError, match="larger than 15 MiB"):
        loaded(bytes(SIZE_LIMIT_BYTES + 1))


def test_another_version_is_refused() -> None:
    text = json.dumps({"version": 3, "bundle_hash": BUNDLE, "edits": []}).encode()
    with pytest.raises(InputError, match="exported in version '3'"):
        loaded(changed(described=np.frombuffer(text, np.uint8)))
