"""Several edits held at once, as stacked rank-one side inputs of the edited layer. Pure.

The model's files never change: the edits held are the stack, and leaving a row out undoes that edit and no
other. ``W'k = Wk + Σ (k·edit_key_i) edit_value_i``.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mobifarm.agent.editor.directions import FloatArray
from mobifarm.agent.errors import InputError

if TYPE_CHECKING:
    from mobifarm.agent.editor.bundle import EditPair

EXPORT_VERSION = 2
SIZE_LIMIT_BYTES = 15 << 20
EDIT_LIMIT = 1000
LONGEST_ID = 200
_ONE_MORE_BYTES = 128 << 10  # of the largest edits: both vectors and the texts
_NAMES_SHOWN = 5
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
        request_hash: of what asked for the edit; "" where nothing but a call did.
    """

    edit_id: str
    subject: str
    prompt: str
    target_new: str
    method: str
    key: FloatArray
    value: FloatArray
    request_hash: str = ""


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
        self.check_new(edit.edit_id)
        for held in self.edits[:1]:
            if (held.key.shape, held.value.shape) != (edit.key.shape, edit.value.shape):
                raise InputError(f"the edit {edit.edit_id!r} is for a model of other shape: edit this bundle")
        return EditStack(self.bundle_hash, (*self.edits, edit))

    def check_new(self, edit_id: str) -> None:
        """Raises InputError where the stack holds an edit of that name, or cannot take one more."""
        if any(edit_id == held.edit_id for held in self.edits):
            raise InputError(
                f"the edit {_shown(edit_id)} is already held: undo it first or give another name"
            )
        size_bytes = sum(held.key.nbytes + held.value.nbytes for held in self.edits)
        if len(self.edits) >= EDIT_LIMIT or size_bytes + _ONE_MORE_BYTES > SIZE_LIMIT_BYTES:
            raise InputError(f"{len(self.edits)} edits are held and no more fit: undo some first")

    def without_edit(self, edit_id: str) -> EditStack:
        """The stack with one edit undone; the others stay bit for bit.

        Raises:
            InputError: the stack does not hold it.
        """
        kept = tuple(held for held in self.edits if held.edit_id != edit_id)
        if len(kept) == len(self.edits):
            names = [_shown(held.edit_id) for held in self.edits[:_NAMES_SHOWN]] or ["none"]
            names += ["…"] * (len(self.edits) > _NAMES_SHOWN)
            raise InputError(
                f"the edit {_shown(edit_id)} is not held (held: {', '.join(names)}): choose one of them"
            )
        return EditStack(self.bundle_hash, kept)

    def side_input(self) -> EditPair | None:
        """All edits as the bundle takes them, one row each; None where there are none."""
        from mobifarm.agent.editor.bundle import EditPair

        if not self.edits:
            return None
        keys, values = self._arrays()
        return EditPair(keys, values)

    def export(self) -> bytes:
        """The stack as one file: a zip of ``.npy`` arrays and a JSON text, readable without pickle.

        Raises:
            InputError: there is no edit, or the file would be larger than what can be imported again.
        """
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
        exported = stream.getvalue()
        if len(exported) > SIZE_LIMIT_BYTES:
            raise InputError(f"the edits take more than {SIZE_LIMIT_BYTES >> 20} MiB: undo some first")
        return exported

    def _arrays(self) -> tuple[Any, Any]:
        keys = np.stack([edit.key for edit in self.edits]).astype(np.float32)
        return keys, np.stack([edit.value for edit in self.edits]).astype(np.float32)


_TEXTS = ("edit_id", "subject", "prompt", "target_new", "method", "request_hash")


@dataclass(frozen=True, slots=True)
class Export:
    """An exported file as it was read; :meth:`stack` checks it against a bundle."""

    bundle_hash: str
    _texts: Sequence[dict[str, str]]
    _keys: FloatArray
    _values: FloatArray

    @property
    def edit_ids(self) -> tuple[str, ...]:
        """Names of the edits, oldest first."""
        return tuple(text["edit_id"] for text in self._texts)

    def stack(self, bundle_hash: str, *, intermediate: int, hidden: int) -> EditStack:
        """The edits for a bundle with this hash, f and d.

        Raises:
            InputError: they are for another bundle, or no two may be held together.
        """
        if self.bundle_hash != bundle_hash:
            raise InputError(
                f"the edits were made for bundle {self.bundle_hash[:12]}…, not {bundle_hash[:12]}…: "
                "open that bundle"
            )
        number = len(self._texts)
        if self._keys.shape != (number, intermediate) or self._values.shape != (number, hidden):
            raise InputError(_NOT_AN_EXPORT)
        stack = EditStack.empty(bundle_hash)
        for text, key, value in zip(self._texts, self._keys, self._values, strict=True):
            stack = stack.with_edit(HeldEdit(**text, key=key, value=value))
        return stack


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
    return read_export(exported).stack(bundle_hash, intermediate=intermediate, hidden=hidden)


def read_export(exported: bytes) -> Export:
    """Read what :meth:`EditStack.export` wrote, for whatever bundle it is.

    Raises:
        InputError: it is no such file, or larger than any.
    """
    if len(exported) > SIZE_LIMIT_BYTES:
        raise InputError(f"the file is larger than {SIZE_LIMIT_BYTES >> 20} MiB: {_NOT_AN_EXPORT}")
    try:
        with zipfile.ZipFile(io.BytesIO(exported)) as archive:
            described = json.loads(_array(archive, "described").tobytes())
            version = described["version"]
            if version == EXPORT_VERSION:
                keys, values = _array(archive, "keys"), _array(archive, "values")
                made_for = _text(described["bundle_hash"])
                texts = [{name: _text(edit[name]) for name in _TEXTS} for edit in described["edits"]]
    except Exception as error:  # the bytes are anybody's, and three parsers refuse them in many ways
        raise InputError(_NOT_AN_EXPORT) from error
    if version != EXPORT_VERSION:
        raise InputError(
            f"the edits were exported in version {_shown(version)}: this one reads {EXPORT_VERSION}"
        )
    if not texts or not all(0 < len(text["edit_id"]) <= LONGEST_ID for text in texts):
        raise InputError(_NOT_AN_EXPORT)
    for array in (keys, values):
        if array.dtype != np.float32 or array.ndim != 2 or not np.isfinite(array).all():
            raise InputError(_NOT_AN_EXPORT)
    return Export(made_for, texts, keys, values)


def _array(archive: zipfile.ZipFile, name: str) -> Any:
    """A ``.npy`` member. Its sizes are believed only as far as there are bytes: nothing is unpacked.

    Raises:
        ValueError: it is no plain array, or compressed, or it lacks bytes.
    """
    if archive.getinfo(f"{name}.npy").compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    stored = archive.read(f"{name}.npy")
    stream = io.BytesIO(stored)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} is of another version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    data = stored[stream.tell() :]
    if by_columns or dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{name} is no plain array")
    return np.frombuffer(data, dtype).reshape(shape)


def _text(value: object) -> str:
    """Raises TypeError or ValueError where this is no text, or one that has no UTF-8 form."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of a text")
    value.encode()
    return value


def _shown(value: object) -> str:
    """Text of somebody else in a message: quoted and never long."""
    text = str(value)
    return repr(text if len(text) <= 80 else text[:79] + "…")
