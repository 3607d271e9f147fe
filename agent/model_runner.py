"""Edits real models: finds bundles on the phone, trusts them once verified, keeps the last one loaded."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from mobifarm.agent.accelerator import Accelerator
from mobifarm.agent.backends.interface import BackendError
from mobifarm.agent.editor.bundle import Bundle
from mobifarm.agent.editor.bundle_files import read_manifest, verify_bundle
from mobifarm.agent.editor.edit import EditOrder, check_edit, edit_several
from mobifarm.agent.editor.manifest import Architecture, Manifest
from mobifarm.agent.editor.methods import METHOD_NAMES, validate_settings
from mobifarm.agent.editor.npu import AcceleratedBundle
from mobifarm.agent.editor.settings import canonical_json
from mobifarm.agent.editor.stack import EditStack
from mobifarm.agent.editor.tokenizer import Tokenizer
from mobifarm.agent.editor.types import EditOutcome, EditPhase, EditProgress, Report
from mobifarm.agent.errors import BundleError, BundleNotFound, Cancelled, InputError
from mobifarm.agent.memory import return_freed
from mobifarm.agent.runner import BundleSummary, EditJob, EditShape, FinishedEdit

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_log = logging.getLogger(__name__)


class _Texts(Tokenizer):
    """The part of a bundle that needs no weights: enough to check an edit before the model is loaded."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        super().__init__(path / manifest.tokenizer.file, manifest.tokenizer)
        self.manifest = manifest

    @property
    def architecture(self) -> Architecture:
        return self.manifest.architecture


class ModelRunner:
    """An ``EditRunner`` over the bundles in ``folder``, each in a folder named after its hash.

    Args:
        threads: processor threads of one edit.
        accelerator: the phone's neural processor; None for none.
    """

    def __init__(self, folder: Path, *, threads: int, accelerator: Accelerator | None = None) -> None:
        self._folder = folder
        self._accelerator = accelerator or Accelerator(folder)
        self._threads = threads
        self._lock = threading.Lock()
        self._verified: dict[str, _Texts] = {}
        self._loaded: AcceleratedBundle | None = None
        self._base_hash = ""

    @property
    def methods(self) -> Sequence[str]:
        """See EditRunner."""
        return METHOD_NAMES

    def check_bundle(self, bundle_hash: str) -> BundleSummary:
        """See EditRunner; hashes every file, also of a bundle that was verified before."""
        manifest = self._verify(bundle_hash).manifest
        return BundleSummary(bundle_hash, manifest.name, manifest.size_bytes)

    def edit_shape(self, bundle_hash: str) -> EditShape:
        """See EditRunner."""
        manifest, found_hash = read_manifest(self._path(bundle_hash))
        if found_hash != bundle_hash:
            raise BundleError(f"the bundle in {bundle_hash} has another hash: push it again")
        shape = manifest.architecture
        return EditShape(manifest.name, shape.intermediate, shape.hidden)

    def validate(self, job: EditJob) -> None:
        """See EditRunner; verifies a bundle that this process has not verified yet."""
        with self._lock:
            texts = self._verified.get(job.bundle_hash)
        texts = texts or self._verify(job.bundle_hash)
        # The check runs no model, so it takes the texts alone for the bundle.
        check_edit(cast(Bundle, texts), job.record, method=job.method, settings=job.settings)

    def run(self, job: EditJob, *, report: Report, cancelled: Callable[[], bool]) -> FinishedEdit:
        """See EditRunner."""
        report(EditProgress(EditPhase.LOADING))
        started_s = time.monotonic()
        bundle, was_loaded = self._load(job.bundle_hash)
        load_s = 0.0 if was_loaded else time.monotonic() - started_s
        try:
            try:
                stack, outcome = self._edit(bundle, job, report, cancelled)
            except BackendError as error:
                # An edit ran on one of the two from its beginning to its end.
                self._accelerator.quarantine(bundle, str(error))
                stack, outcome = self._edit(bundle, job, report, cancelled)
            accelerator, accelerator_json = self._accelerator.describe(bundle, job.record, outcome, stack)
        except (Cancelled, InputError) as error:
            error.base_proof = self._prove_base(bundle)
            raise
        except Exception:
            self._loaded = None  # whatever state it is in, the next edit starts from the files
            raise
        base_hash, returned_to_base = self._prove_base(bundle)
        return FinishedEdit(
            outcome=outcome,
            edit=stack.edits[-1],
            load_s=load_s,
            settings_json=canonical_json(validate_settings(job.method, job.settings)),
            nodes_by_provider=bundle.placement(),
            base_hash=base_hash,
            returned_to_base=returned_to_base,
            accelerator=accelerator,
            accelerator_json=accelerator_json,
        )

    def _edit(
        self, bundle: AcceleratedBundle, job: EditJob, report: Report, cancelled: Callable[[], bool]
    ) -> tuple[EditStack, EditOutcome]:
        with bundle.on_accelerator():
            stack, [outcome] = edit_several(
                bundle,
                [job.record],
                order=job.keep or EditOrder.TOGETHER,
                method=job.method,
                settings=job.settings,
                seed=job.seed,
                report=report,
                cancelled=cancelled,
                clock=time.monotonic,
                held=job.held,
            )
        return stack, outcome

    def _prove_base(self, bundle: Bundle) -> tuple[str, bool]:
        """The hash over what an edit can change, and whether it is the one from before the edit."""
        base_hash = bundle.base_hash()
        if base_hash != self._base_hash:
            _log.error("the model is not what it was before the edit; it is loaded anew")
            self._loaded = None
        return base_hash, base_hash == self._base_hash

    def _path(self, bundle_hash: str) -> Path:
        if not _HASH.match(bundle_hash):
            raise InputError(f"bundle_hash is {bundle_hash[:80]!r}: give 64 hexadecimal digits")
        path = self._folder / bundle_hash
        if not path.is_dir():
            # Nobody pushes a bundle by hand: the farm does it before the first job that needs it.
            raise BundleNotFound(
                f"model bundle {bundle_hash} is not on this phone: run a job with this model there first"
            )
        return path

    def _verify(self, bundle_hash: str) -> _Texts:
        path = self._path(bundle_hash)
        with self._lock:
            self._verified.pop(bundle_hash, None)
        verify_bundle(path, bundle_hash)
        manifest, _ = read_manifest(path)
        texts = _Texts(path, manifest)
        return_freed()  # reading a tokenizer takes twice the memory that it needs
        with self._lock:
            self._verified[bundle_hash] = texts
        return texts

    def _load(self, bundle_hash: str) -> tuple[AcceleratedBundle, bool]:
        if self._loaded is not None and self._loaded.bundle_hash == bundle_hash:
            return self._loaded, True
        self._loaded = None  # two models may not fit into the phone's memory
        with self._lock:
            texts = self._verified.get(bundle_hash)
        path = self._folder / bundle_hash
        bundle = AcceleratedBundle.open(path, threads=self._threads, verify=False, tokenizer=texts)
        self._base_hash = bundle.base_hash()
        self._accelerator.attach(bundle, path)
        self._loaded = bundle
        return bundle, False
