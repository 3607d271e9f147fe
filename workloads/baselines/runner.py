"""The baselines behind an agent's service: torch in fp32, on the weights that a bundle was built from."""

from __future__ import annotations

import gc
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobifarm.agent.editor.bundle_files import MappedTensors, read_manifest, verify_bundle
from mobifarm.agent.editor.contexts import tokenize_contexts
from mobifarm.agent.editor.evaluation import Answer, probe_scores, questions, tokenize_questions
from mobifarm.agent.editor.forward import Step
from mobifarm.agent.editor.prepared import InverseSecondMoment, load_prepared
from mobifarm.agent.editor.settings import canonical_json
from mobifarm.agent.editor.types import (
    AnswerScore,
    EditOutcome,
    EditPhase,
    EditProgress,
    EditRecord,
    EditStatus,
    Report,
)
from mobifarm.agent.errors import BundleError, BundleNotFound, Cancelled, InputError
from mobifarm.agent.memory import reset_peak_rss
from mobifarm.agent.runner import BundleSummary, EditJob, EditShape, FinishedEdit
from mobifarm.workloads.baselines.settings import (
    BASELINE_NAMES,
    BaselineName,
    FinetuneSettings,
    RomeSettings,
    baseline_settings,
)
from mobifarm.workloads.baselines.texts import BundleTexts
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.sources import source_of_bundle

if TYPE_CHECKING:
    from mobifarm.workloads.metrics.language_model import LanguageModel
    from mobifarm.workloads.preparation.decoder import TorchDecoder

_log = logging.getLogger(__name__)

_NOTHING_KEPT = "the farm's computer keeps no edits: only phones do"

_Pairs = Sequence[tuple[Answer, Answer | None]]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The model behind a bundle. ``base_hash``: over every ``down_proj``, all that a baseline edits."""

    bundle_hash: str
    texts: BundleTexts
    decoder: TorchDecoder
    inverse_second_moment: InverseSecondMoment | None
    base_hash: str


class BaselineRunner:
    """An ``EditRunner`` over the bundles in ``folder``, each in a folder (or link) named after its hash.

    torch is imported with the first edit: a runner that only waits stays small.

    Args:
        threads: processor threads of one edit.
    """

    def __init__(self, folder: Path, *, threads: int) -> None:
        self._folder = folder
        self._threads = threads
        self._lock = threading.Lock()
        self._verified: dict[str, BundleTexts] = {}
        self._loaded: _Loaded | None = None

    @property
    def methods(self) -> Sequence[str]:
        """See EditRunner."""
        return BASELINE_NAMES

    def check_bundle(self, bundle_hash: str) -> BundleSummary:
        """See EditRunner; also finds out whether the weights that it was built from are here."""
        manifest = self._verify(bundle_hash).manifest
        return BundleSummary(bundle_hash, manifest.name, manifest.size_bytes)

    def edit_shape(self, bundle_hash: str) -> EditShape:
        """See EditRunner."""
        raise InputError(_NOTHING_KEPT)

    def validate(self, job: EditJob) -> None:
        """See EditRunner; verifies a bundle that this process has not verified yet."""
        with self._lock:
            texts = self._verified.get(job.bundle_hash)
        _check(texts or self._verify(job.bundle_hash), job)

    def run(self, job: EditJob, *, report: Report, cancelled: Callable[[], bool]) -> FinishedEdit:
        """See EditRunner. The peak of the memory counts from the loaded model on, as in docs/metrics.md."""
        from mobifarm.workloads.baselines.editors import baseline

        name = _baseline(job.method)
        settings = baseline_settings(name, job.settings)
        steps = settings.steps if isinstance(settings, RomeSettings | FinetuneSettings) else 0

        def sign(phase: EditPhase, step: Step | None = None) -> None:
            if cancelled():
                raise Cancelled(f"the edit {job.record.record_id} was cancelled")
            at = () if step is None else (step.number, steps, step.loss, step.target_probability)
            report(EditProgress(phase, *at))

        sign(EditPhase.LOADING)
        started_s = time.monotonic()
        loaded, was_loaded = self._load(job.bundle_hash)
        load_s = 0.0 if was_loaded else time.monotonic() - started_s
        editor = baseline(
            name,
            loaded.decoder,
            loaded.texts,
            inverse_second_moment=loaded.inverse_second_moment,
            settings=job.settings,
            on_step=lambda step: sign(EditPhase.OPTIMISING, step),
        )
        asked = questions(job.record)
        pairs = tokenize_questions(loaded.texts, asked)
        sign(EditPhase.EVALUATING_BEFORE)
        started_s = time.monotonic()
        before = _scores(editor.unedited, pairs)
        evaluation_s = time.monotonic() - started_s
        sign(EditPhase.CACHING)
        found = editor.edit(job.record, time.monotonic)
        sign(EditPhase.EVALUATING_AFTER)
        started_s = time.monotonic()
        after = _scores(found.model, pairs)
        found.cost.evaluation_s = evaluation_s + time.monotonic() - started_s
        status = EditStatus.CONVERGED if found.converged else EditStatus.STEP_LIMIT
        base_hash = _hash(loaded.decoder)
        if base_hash != loaded.base_hash:
            _log.error("the model is not what it was before the edit; it is loaded anew")
            self._loaded = None
        return FinishedEdit(
            outcome=EditOutcome(status, found.cost, probe_scores(asked, before, after)),
            edit=None,
            load_s=load_s,
            settings_json=canonical_json(asdict(settings)),
            nodes_by_provider={},
            base_hash=base_hash,
            returned_to_base=base_hash == loaded.base_hash,
        )

    def _verify(self, bundle_hash: str) -> BundleTexts:
        folder = self._folder_of(bundle_hash)
        with self._lock:
            self._verified.pop(bundle_hash, None)
        verify_bundle(folder, bundle_hash)
        try:
            source_of_bundle(folder)
        except WorkloadInputError as error:
            raise BundleError(str(error)) from error
        texts = BundleTexts(folder)
        with self._lock:
            self._verified[bundle_hash] = texts
        return texts

    def _folder_of(self, bundle_hash: str) -> Path:
        if len(bundle_hash) != 64 or not bundle_hash.isalnum():
            raise InputError(f"bundle_hash is {bundle_hash[:80]!r}: give 64 hexadecimal digits")
        folder = self._folder / bundle_hash
        if not folder.is_dir():
            raise BundleNotFound(f"model bundle {bundle_hash} is not where the farm's computer looks for it")
        return folder.resolve()

    def _load(self, bundle_hash: str) -> tuple[_Loaded, bool]:
        if self._loaded is not None and self._loaded.bundle_hash == bundle_hash:
            return self._loaded, True
        self._loaded = None  # two models may not fit into the memory
        import torch

        from mobifarm.workloads.preparation.decoder import TorchDecoder

        torch.set_num_threads(self._threads)
        folder = self._folder_of(bundle_hash)
        manifest, found_hash = read_manifest(folder)
        if found_hash != bundle_hash:
            raise BundleError(
                f"the model bundle {manifest.name} was built anew since the job was submitted: "
                "submit it again"
            )
        texts = BundleTexts(folder)
        try:
            checkpoint = source_of_bundle(folder).load(_log.info)
        except WorkloadInputError as error:
            raise BundleError(str(error)) from error
        edited = checkpoint.weight(f"model.layers.{manifest.edit_layer}.mlp.down_proj.weight")
        if checkpoint.architecture != manifest.architecture or not np.array_equal(
            edited.T, MappedTensors(folder).tensor(manifest.tensors["edited_down_proj"])
        ):
            raise BundleError(
                f"the weights on this computer are not those that the model bundle {manifest.name} was built "
                "from: build it again and submit the job again"
            )
        decoder = TorchDecoder(checkpoint)
        inverse = load_prepared(MappedTensors(folder), manifest).inverse_second_moment
        self._loaded = _Loaded(bundle_hash, texts, decoder, inverse, _hash(decoder))
        # Loading a checkpoint takes more memory than editing does, and is no part of it.
        del checkpoint, edited
        gc.collect()
        reset_peak_rss()
        return self._loaded, False


def _baseline(method: str) -> BaselineName:
    for name in BASELINE_NAMES:
        if method == name:
            return name
    raise InputError(f"{method!r} is no baseline: choose one of {', '.join(BASELINE_NAMES)}")


def _check(texts: BundleTexts, job: EditJob) -> None:
    """Find out whether the edit can be done, without running the model. Raises InputError."""
    name = _baseline(job.method)
    if job.keep is not None:
        raise InputError(_NOTHING_KEPT)
    settings = baseline_settings(name, job.settings)
    pairs = tokenize_questions(texts, questions(job.record))
    if isinstance(settings, RomeSettings):
        tokenize_contexts(texts, job.record, settings.contexts)
    if name == "in_context":
        _check_room_for_the_fact(texts, job.record, pairs)


def _check_room_for_the_fact(texts: BundleTexts, record: EditRecord, pairs: _Pairs) -> None:
    fact = len(texts.tokenize(f"{record.prompt} {record.target_new}.\n"))
    longest = max(len(answer.input_ids) for pair in pairs for answer in pair if answer is not None)
    limit = texts.architecture.max_positions
    if fact + longest > limit:
        raise InputError(
            f"the fact and the longest question have {fact + longest} tokens, "
            f"the model takes at most {limit}: shorten the questions"
        )


def _scores(model: LanguageModel, pairs: _Pairs) -> list[tuple[AnswerScore, AnswerScore | None]]:
    answers = list(dict.fromkeys(answer for pair in pairs for answer in pair if answer is not None))
    scores = dict(zip(answers, model.score(answers), strict=True))
    return [(scores[wanted], None if other is None else scores[other]) for wanted, other in pairs]


def _hash(decoder: TorchDecoder) -> str:
    digest = hashlib.sha256()
    for weight in decoder.down_projections():
        digest.update(weight.numpy().data)
    return digest.hexdigest()
