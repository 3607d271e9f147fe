"""What the service needs from an editor. The real one is in ``mobifarm.agent.model_runner``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mobifarm.agent.editor.edit import EditOrder
from mobifarm.agent.editor.stack import EditStack, HeldEdit
from mobifarm.agent.editor.types import EditOutcome, EditRecord, EditStatus, Report


@dataclass(frozen=True, slots=True)
class EditJob:
    """One edit to do.

    Attributes:
        keep: how the edit comes about that is to be kept; None: it is undone once it is scored.
        held: kept edits that are applied beside it; None for none.
    """

    bundle_hash: str
    record: EditRecord
    method: str
    settings: Mapping[str, Any]
    seed: int
    keep: EditOrder | None = None
    held: EditStack | None = None


@dataclass(frozen=True, slots=True)
class BundleSummary:
    """A bundle whose files are what its manifest says."""

    bundle_hash: str
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class EditShape:
    """Which edits fit a bundle: keys of ``intermediate`` and values of ``hidden`` numbers."""

    name: str
    intermediate: int
    hidden: int


@dataclass(frozen=True, slots=True)
class FinishedEdit:
    """An outcome with the proof of how it came about.

    Attributes:
        edit: what was found; None from a runner that keeps nothing.
        load_s: seconds to bring the bundle into memory, 0 where it was there already.
        settings_json: the complete settings, defaults included, as canonical JSON.
        nodes_by_provider: graph nodes by execution provider, from a profiling trace.
        base_hash: sha256 over what an edit could change, after every edit was left out.
        returned_to_base: whether it equals the one before the edit.
        accelerator: what ran the edit: ``cpu``, ``htp_emulator`` or ``htp_hardware``.
        accelerator_json: why not a neural processor, or the proof that it was one; "" where nobody asked.
    """

    outcome: EditOutcome
    edit: HeldEdit | None
    load_s: float
    settings_json: str
    nodes_by_provider: Mapping[str, int]
    base_hash: str
    returned_to_base: bool
    accelerator: str = "cpu"
    accelerator_json: str = ""

    @property
    def converged(self) -> bool:
        """Whether the edit reached its goal; only such edits are kept."""
        return self.outcome.status is EditStatus.CONVERGED


class EditRunner(Protocol):
    """Does edits; called from worker threads, ``run`` never twice at a time."""

    @property
    def methods(self) -> Sequence[str]:
        """Names of the methods it edits with."""
        ...

    def check_bundle(self, bundle_hash: str) -> BundleSummary:
        """Verify a bundle file by file. Raises BundleNotFound, BundleError."""
        ...

    def edit_shape(self, bundle_hash: str) -> EditShape:
        """Read a bundle's manifest alone. Raises InputError (also where nothing is kept), BundleError."""
        ...

    def validate(self, job: EditJob) -> None:
        """Find out whether ``job`` can be done, without doing it. Raises InputError, BundleError."""
        ...

    def run(self, job: EditJob, *, report: Report, cancelled: Callable[[], bool]) -> FinishedEdit:
        """Do the edit beside those held, measure it, undo it. Raises Cancelled, InputError, BundleError."""
        ...
