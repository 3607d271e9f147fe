"""The edits that the phone keeps, on its disk until they are undone.

One file per bundle, as :meth:`EditStack.export` writes it; a bundle without kept edits has none. The model's
files never change. Called with nothing else running that keeps edits; reading may be done at any time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobifarm.agent.editor.stack import EditStack, HeldEdit, read_export
from mobifarm.agent.errors import AgentError, BundleError, DamagedEdits, InputError
from mobifarm.agent.files import sync_folder, write_atomically
from mobifarm.agent.runner import EditShape

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_SUFFIX = ".edits"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptBundle:
    """What is kept of one bundle. ``problem`` says why its edits cannot be read, and is else empty."""

    bundle_hash: str
    name: str
    edits: tuple[HeldEdit, ...]
    problem: str


class KeptEdits:
    """Kept edits by bundle in ``folder``, which must exist.

    Args:
        shape: of a bundle on this phone, see EditRunner.edit_shape.
    """

    def __init__(self, folder: Path, shape: Callable[[str], EditShape]) -> None:
        self._folder = folder
        self._shape = shape
        for unfinished in folder.glob("*.tmp"):
            unfinished.unlink()

    def stack(self, bundle_hash: str) -> EditStack:
        """The kept edits of a bundle, oldest first.

        Raises:
            InputError, BundleError: there is no such bundle on this phone.
            DamagedEdits: the file does not hold what was written.
        """
        shape = self._shape(bundle_hash)
        try:
            content = self._path(bundle_hash).read_bytes()
        except FileNotFoundError:
            return EditStack.empty(bundle_hash)
        try:
            return read_export(content).stack(
                bundle_hash, intermediate=shape.intermediate, hidden=shape.hidden
            )
        except InputError as error:
            raise DamagedEdits(
                f"the kept edits of bundle {shape.name} on this phone are damaged: undo all of them, "
                "then make them again or import an export"
            ) from error

    def before(self, bundle_hash: str, edit_id: str, request_hash: str) -> EditStack:
        """The kept edits beside which a request makes its edit: without the one that it kept before, so that
        the same request twice keeps one edit.

        Raises:
            InputError: another request's edit has this name, or no more fit.
            BundleError, DamagedEdits: see :meth:`stack`.
        """
        kept = self.stack(bundle_hash)
        if any(held.edit_id == edit_id and held.request_hash == request_hash for held in kept):
            kept = kept.without_edit(edit_id)
        kept.check_new(edit_id)
        return kept

    def save(self, stack: EditStack) -> None:
        """Make this what is kept of its bundle; when this returns, it survives a crash.

        Raises:
            InputError: it is larger than what a phone keeps.
            OSError: the disk is full; what was kept before is then untouched.
        """
        path = self._path(stack.bundle_hash)
        if len(stack):
            write_atomically(path, stack.export())
        else:
            path.unlink(missing_ok=True)
            sync_folder(self._folder)

    def bundles(self, bundle_hash: str = "") -> list[KeptBundle]:
        """What is kept of one bundle, or of every bundle that has kept edits.

        Raises:
            InputError, BundleError: there is no such bundle on this phone.
        """
        if bundle_hash:
            self._shape(bundle_hash)
            return [self._listed(bundle_hash)]
        return [self._listed(path.stem) for path in sorted(self._folder.glob(f"*{_SUFFIX}"))]

    def undo(self, bundle_hash: str, edit_ids: Sequence[str]) -> EditStack:
        """Undo some edits, all or none of them; returns what is left.

        Raises:
            InputError: one of them is not kept.
            BundleError, DamagedEdits: see :meth:`stack`.
        """
        left = self.stack(bundle_hash)
        for edit_id in edit_ids:
            left = left.without_edit(edit_id)
        self.save(left)
        return left

    def undo_all(self, bundle_hash: str) -> list[str]:
        """Undo every edit of a bundle and return their names; a damaged file is put aside.

        Of a bundle that is gone, or that this version cannot read, nothing else can be done with the edits.

        Raises:
            InputError, BundleError: there is no such bundle on this phone, and nothing is kept of it.
        """
        path = self._path(bundle_hash)
        try:
            undone = self._names(bundle_hash, path)
        except (DamagedEdits, InputError):
            if not path.exists():
                raise
            _log.error("%s is damaged and put aside", path.name)
            path.replace(path.with_suffix(".damaged"))
            sync_folder(self._folder)
            return []
        self.save(EditStack.empty(bundle_hash))
        return undone

    def _names(self, bundle_hash: str, path: Path) -> list[str]:
        try:
            return [held.edit_id for held in self.stack(bundle_hash)]
        except BundleError:
            if not path.exists():
                raise
            return list(read_export(path.read_bytes()).edit_ids)

    def import_edits(self, bundle_hash: str, exported: bytes) -> tuple[EditStack, list[str]]:
        """Keep the edits of an exported file beside those that are kept, all or none.

        Args:
            bundle_hash: what the file must be for; "" for whatever it names.

        Returns:
            All kept edits, and the names of the new ones.

        Raises:
            InputError: it is no such file, for another bundle, or one of its edits is kept.
            BundleError, DamagedEdits: see :meth:`stack`.
        """
        export = read_export(exported)
        bundle_hash = bundle_hash or export.bundle_hash
        kept = self.stack(bundle_hash)
        shape = self._shape(bundle_hash)
        imported = export.stack(bundle_hash, intermediate=shape.intermediate, hidden=shape.hidden)
        for held in imported:
            kept = kept.with_edit(held)
        self.save(kept)
        return kept, [held.edit_id for held in imported]

    def _listed(self, bundle_hash: str) -> KeptBundle:
        name = ""
        try:
            name = self._shape(bundle_hash).name
            return KeptBundle(bundle_hash, name, self.stack(bundle_hash).edits, "")
        except AgentError as error:
            return KeptBundle(bundle_hash, name, (), str(error))

    def _path(self, bundle_hash: str) -> Path:
        if not _HASH.match(bundle_hash):
            raise InputError(f"bundle_hash is {bundle_hash[:80]!r}: give 64 hexadecimal digits")
        return self._folder / f"{bundle_hash}{_SUFFIX}"
