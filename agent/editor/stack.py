"""Several edits held at once, as stacked rank-one side inputs of the edited layer. Pure.

The model's files never change: the edits held are the stack, and leaving a row out undoes that edit and no
other. ``W'k = Wk + Σ (k·edit_key_i) edit_value_i``.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mobifarm.agent.editor.directions import FloatArray
from mobifarm.agent.errors import InputError

if TYPE_CHECKING:
    from mobifarm.agent.editor.bundle import EditPair

EXPORT_VERSION = 1
_NOT_AN_EXPORT = "this is no export of edits: take the file that the export wrote"


@dataclass(frozen=True, slots=True)
class HeldEdit:
    """One edit and what it says.

    Attributes:
        edit_id: names the edit in its stack.
        subject: of the fact.
        prompt: of the fact, with the subject in it.
        target_new: the answer that was written.
        method: the method that found it.
        key: [f] f32, see write_back.edit_key.
        value: [d] f32, δ.
    """

    edit_id: str
    subject: str
    prompt: str
    target_new: str
    method: str
    key: FloatArray
    value: FloatArray


@dataclass(frozen=True, slots=True)
class EditStack:
    """The edits held for one bundle, oldest first. Make a new one with :meth:`empty`."""

    bundle_hash: str
    edits: tuple[HeldEdit, ...]

    @classmethod
    def empty(cls, bundle_hash: str) -> EditStack:
        """No edits of the bundle with this hash."""
        return cls(bundle_hash, ())

    def __len__(self) -> int:
        return len(self.edits)

    def __iter__(self) -> Iterator[HeldEdit]:
        return iter(self.edits)

    def with_edit(self, edit: HeldEdit) -> EditStack:
        """The stack with one more edit.

        Raises:
            InputError: the stack holds an edit of that name, or the shapes are those of another model.
        """
        if any(edit.edit_id == held.edit_id for held in self.edits):
            raise InputError(f"the edit {edit.edit_id!r} is already held: undo it first or give another name")
        for held in self.edits[:1]:
            if (held.key.shape, held.value.shape) != (edit.key.shape, edit.value.shape):
                raise InputError(f"the edit {edit.edit_id!r} is for a model of other shape: edit this bundle")
        return EditStack(self.bundle_hash, (*self.edits, edit))

    def without_edit(self, edit_id: str) -> EditStack:
        """The stack with one edit undone; the others stay bit for bit.

        Raises:
            InputError: the stack does not hold it.
        """
        kept = tuple(held for held in self.edits if held.edit_id != edit_id)
        if len(kept) == len(self.edits):
            names = ", ".join(repr(held.edit_id) for held in self.edits) or "none"
            raise InputError(f"the edit {edit_id!r} is not held (held: {names}): choose one of them")
        return EditStack(self.bundle_hash, kept)

    def side_input(self) -> EditPair | None:
        """All edits as the bundle takes them, one row each; None where there are none."""
        from mobifarm.agent.editor.bundle import EditPair

        if not self.edits:
            return None
        keys, values = self._arrays()
        return EditPair(keys, values)

    def export(self) -> bytes:
        """The stack as one file: a zip of ``.npy`` arrays and a JSON text, readable without pickle."""
        if not self.edits:
            raise InputError("there is no edit to export")
        described = {
            "version": EXPORT_VERSION,
            "bundle_hash": self.bundle_hash,
            "edits": [{name: getattr(edit, name) for name in _TEXTS} for edit in self.edits],
        }
        keys, values = self._arrays()
        stream = io.BytesIO()
        text = np.frombuffer(json.dumps(described).encode(), np.uint8)
        np.savez(stream, keys=keys, values=values, described=text)
        return stream.getvalue()

    def _arrays(self) -> tuple[Any, Any]:
        keys = np.stack([edit.key for edit in self.edits]).astype(np.float32)
        return keys, np.stack([edit.value for edit in self.edits]).astype(np.float32)


_TEXTS = ("edit_id", "subject", "prompt", "target_new", "method")


def import_edits(exported: bytes, bundle_hash: str, *, intermediate: int, hidden: int) -> EditStack:
    """Read what :meth:`EditStack.export` wrote.

    Args:
        exported: the file; not trusted.
        bundle_hash: of the bundle that is to hold the edits.
        intermediate: f of that bundle.
        hidden: d of that bundle.

    Raises:
        InputError: it is no such file, or its edits are for another bundle.
    """
    try:
        with np.load(io.BytesIO(exported), allow_pickle=False) as arrays:
            keys, values = arrays["keys"], arrays["values"]
            described = json.loads(arrays["described"].tobytes())
        version, made_for, texts = described["version"], described["bundle_hash"], described["edits"]
        names = [{name: str(text[name]) for name in _TEXTS} for text in texts]
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(_NOT_AN_EXPORT) from error
    if version != EXPORT_VERSION:
        raise InputError(f"the edits were exported in version {version!r}: this one reads {EXPORT_VERSION}")
    if made_for != bundle_hash:
        raise InputError(
            f"the edits were made for bundle {str(made_for)[:12]}…, not {bundle_hash[:12]}…: open that bundle"
        )
    _check_arrays(keys, values, (len(names), intermediate), (len(names), hidden))
    stack = EditStack.empty(bundle_hash)
    for text, key, value in zip(names, keys, values, strict=True):
        stack = stack.with_edit(HeldEdit(**text, key=key, value=value))
    return stack


def _check_arrays(keys: Any, values: Any, keys_shape: Sequence[int], values_shape: Sequence[int]) -> None:
    for array, shape in ((keys, keys_shape), (values, values_shape)):
        if array.dtype != np.float32 or array.shape != tuple(shape) or not np.isfinite(array).all():
            raise InputError(_NOT_AN_EXPORT)
