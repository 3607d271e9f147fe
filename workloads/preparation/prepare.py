"""``mobifarm models prepare``: learn once per model, and put what was learned into its bundle.

Every stage keeps its result in a folder beside the bundle, so that an interrupted run goes on where it was;
the folder's name holds a hash of all that goes in. The finished bundle replaces the old one as a whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor import EditRecord, contexts, prepared, tokenizer, write_back
from mobifarm.agent.editor.bundle_files import read_manifest
from mobifarm.agent.editor.contexts import PREFIXES, tokenize_contexts
from mobifarm.agent.editor.evaluation import questions, tokenize_questions
from mobifarm.agent.editor.manifest import MANIFEST_NAME, PREPARATION, Manifest, manifest_hash
from mobifarm.agent.editor.tokenizer import Tokenizer
from mobifarm.agent.errors import InputError
from mobifarm.workloads import records as records_of_files
from mobifarm.workloads.datasets import read_records, without_subjects_of
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.build import (
    BuildResult,
    Progress,
    build_bundle,
    describe_file,
    lock_bundle,
    move_into_place,
)
from mobifarm.workloads.models.graph import WeightsFile
from mobifarm.workloads.models.sources import Source

if TYPE_CHECKING:
    from mobifarm.workloads.preparation.decoder import TorchDecoder
    from mobifarm.workloads.preparation.gradients import Gradients
    from mobifarm.workloads.preparation.samples import Sample
    from mobifarm.workloads.preparation.sweep import LayerTrial

PREPARED_FILE = "prepared.bin"
# Candidate layers as shares of the depth: earlier ones are hard to steer, later ones spill into neighbours.
_LAYER_SHARES = (0.17, 0.23, 0.3, 0.37)
_HELD_OUT_SHARE = 8  # every eighth fact judges
_CHUNK = 256
# Where the prompts, tokens, keys and inputs of the surrogate come from that it learns from.
_OTHER_CODE = (
    contexts.__file__,
    tokenizer.__file__,
    prepared.__file__,
    write_back.__file__,
    records_of_files.__file__,
)


@dataclass(frozen=True, slots=True)
class PreparationSettings:
    """How much to learn from.

    Attributes:
        tokens: of the text, for the second moments.
        facts: for gradients at δ = 0.
        path_facts: of them, for gradients on the way to the edit.
        trial_facts: held-out facts that are edited at every candidate layer.
        layers: candidate layers; a few around a third of the depth where None.
        tolerance: a layer may fall this far behind the best one's score if its gradients are guessed better.
        path_steps: steps of backpropagation on the way.
    """

    tokens: int = 40_000
    facts: int = 1500
    path_facts: int = 512
    trial_facts: int = 32
    layers: tuple[int, ...] | None = None
    tolerance: float = 0.02
    path_steps: int = 10


@dataclass(frozen=True, slots=True)
class _Texts:
    tokenizer: Tokenizer
    architecture: Any

    def tokenize(self, text: str) -> list[int]:
        return self.tokenizer.tokenize(text)

    def tokenize_prompt_and_answer(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        return self.tokenizer.tokenize_prompt_and_answer(prompt, answer)

    def subject_last_index(self, prompt: str, subject: str) -> int:
        return self.tokenizer.subject_last_index(prompt, subject)


def prepare_bundle(
    source: Source,
    directory: Path,
    *,
    text: Path,
    facts: Path,
    exclude: Path | None = None,
    settings: PreparationSettings | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Prepare the bundle of ``source`` in ``directory``; it is built first where it is missing.

    Args:
        source: the model.
        directory: folder of the bundles.
        text: ordinary text, UTF-8, for the second moments.
        facts: JSON file of records; never evaluate on them.
        exclude: JSON file of records to be evaluated on: facts about their subjects are left out.
        settings: how much to learn from.
        progress: told how it goes.

    Returns:
        The bundle; ``built`` is False where it was prepared just so already.

    Raises:
        WorkloadInputError: a file cannot be read or is too small, or a layer is not in the model.
    """
    settings, progress = settings or PreparationSettings(), progress or Progress()
    records = read_records(facts)
    if exclude:
        records = without_subjects_of(records, read_records(exclude))
    records = records[: settings.facts]
    _check_enough(records, f"{facts.name} has", f" beside those of {exclude.name}" if exclude else "")
    inputs = _inputs_hash(source, text, facts, exclude, settings)
    present = build_bundle(source, directory, progress=progress)
    with lock_bundle(directory / f".{present.name}-preparation.lock", progress):
        manifest, found_hash = read_manifest(present.path)
        if manifest.extras.get(PREPARATION, {}).get("inputs") == inputs:
            return dataclasses.replace(present, bundle_hash=found_hash, built=False)
        work = directory / f".{present.name}-preparation-{inputs[:12]}"
        work.mkdir(exist_ok=True)
        learned = _learn(work, source, manifest, present.path, text, records, settings, progress)
        progress.status("writing the bundle")
        result = _write(source, directory, manifest, learned, inputs, progress)
        shutil.rmtree(work)
        return result


@dataclass(frozen=True, slots=True)
class _Learned:
    layer: int
    tensors: Mapping[str, NDArray[Any]]
    report: Mapping[str, Any]


def _learn(
    work: Path,
    source: Source,
    manifest: Manifest,
    bundle: Path,
    text: Path,
    records: Sequence[EditRecord],
    settings: PreparationSettings,
    progress: Progress,
) -> _Learned:
    from mobifarm.workloads.preparation.decoder import TorchDecoder
    from mobifarm.workloads.preparation.fit import factorise, fit_subspace, fit_surrogate
    from mobifarm.workloads.preparation.gradients import concatenate
    from mobifarm.workloads.preparation.moments import second_moments
    from mobifarm.workloads.preparation.sweep import LayerTrial, choose_layer, try_layer

    layers = _candidates(manifest, settings)
    texts = _Texts(Tokenizer(bundle / manifest.tokenizer.file, manifest.tokenizer), manifest.architecture)
    records = [record for record in records if _fits(texts, record)]
    _check_enough(records, "only", f" fit the {texts.architecture.max_positions} tokens of the model")
    samples = _samples(texts, records)
    decoder = TorchDecoder(source.load(progress.status))

    progress.status("measuring second moments")
    moments = _stage(
        work / "moments.npz",
        lambda: {
            str(layer): moment.astype(np.float32)
            for layer, moment in second_moments(
                decoder, _text_tokens(texts, text, settings.tokens), layers, progress.layers
            ).items()
        },
    )
    held_out = [r for index, r in enumerate(records) if _is_held_out(index)][: settings.trial_facts]
    trials: list[LayerTrial] = []
    for layer in layers:
        progress.status(f"trying layer {layer}")
        inverse = factorise(moments[str(layer)])

        def attempt(layer: int = layer, inverse: Any = inverse) -> Mapping[str, Any]:
            return dataclasses.asdict(try_layer(decoder, texts, held_out, layer, inverse, progress.layers))

        path = work / f"trial-{layer}.json"
        if not path.exists():
            _replace(path, json.dumps(attempt()).encode())
        trials.append(LayerTrial(**json.loads(path.read_text())))
    progress.status("learning gradients at the start")
    starts = _start_gradients(work, decoder, samples, layers, progress)
    cosines = {
        layer: fit_surrogate(points, _held_out(points), ridges=(1.0,)).cosine_start
        for layer, points in starts.items()
    }
    layer = choose_layer(trials, cosines, settings.tolerance)
    progress.status(f"learning gradients on the way at layer {layer}")
    points = concatenate([starts[layer], *_path_gradients(work, decoder, samples, layer, settings, progress)])
    judges = _held_out(points)
    fit = fit_surrogate(points, judges)
    inverse = factorise(moments[str(layer)])
    from mobifarm.agent.editor.prepared import Surrogate

    norm = decoder.final_norm.numpy()
    a = manifest.architecture
    surrogate = Surrogate(fit.weights, norm, a.rms_epsilon, a.logit_softcap)
    subspace = fit_subspace(points.where(~judges), surrogate)
    return _Learned(
        layer,
        {
            "second_moment_diagonal": inverse.diagonal,
            "second_moment_factor": inverse.factor,
            "second_moment_core": inverse.core,
            "surrogate": fit.weights,
            "final_norm": norm,
            "subspace": subspace.directions,
            "subspace_variances": subspace.variances,
        },
        {
            "layer_trials": [
                {**dataclasses.asdict(t), "score": t.score, "cosine_start": cosines[t.layer]} for t in trials
            ],
            "settings": dataclasses.asdict(settings),
            "cosine_start": fit.cosine_start,
            "cosine_path": fit.cosine_path,
            "points": len(points.facts),
        },
    )


def _start_gradients(
    work: Path,
    decoder: TorchDecoder,
    samples: Sequence[Sample],
    layers: Sequence[int],
    progress: Progress,
) -> dict[int, Gradients]:
    """At δ = 0, for all candidate layers out of the same backward passes."""
    from mobifarm.workloads.preparation.gradients import Gradients, concatenate, gradients_at_start

    parts: dict[int, list[Gradients]] = {layer: [] for layer in layers}
    for start in range(0, len(samples), _CHUNK):
        chunk = samples[start : start + _CHUNK]

        def compute(chunk: Sequence[Sample] = chunk) -> Mapping[str, NDArray[Any]]:
            found = gradients_at_start(decoder, chunk, layers, lambda done, total: None)
            return {
                f"{layer}.{name}": array
                for layer, points in found.items()
                for name, array in dataclasses.asdict(points).items()
            }

        stored = _stage(work / f"start-{start}.npz", compute)
        for layer in layers:
            names = [field.name for field in dataclasses.fields(Gradients)]
            parts[layer].append(Gradients(**{name: stored[f"{layer}.{name}"] for name in names}))
        progress.layers(start + len(chunk), len(samples))
    return {layer: concatenate(found) for layer, found in parts.items()}


def _path_gradients(
    work: Path,
    decoder: TorchDecoder,
    samples: Sequence[Sample],
    layer: int,
    settings: PreparationSettings,
    progress: Progress,
) -> list[Gradients]:
    """At δ ≠ 0, where backpropagation passes on its way to the edit."""
    from mobifarm.workloads.preparation.gradients import BATCH, Gradients, search

    parts: list[Gradients] = []
    chosen = samples[: settings.path_facts]
    for start in range(0, len(chosen), BATCH):
        chunk = sorted(chosen[start : start + BATCH], key=lambda sample: len(sample.input_ids))

        def walk(chunk: Sequence[Sample] = chunk) -> Mapping[str, NDArray[Any]]:
            path = search(decoder, chunk, layer, step_limit=settings.path_steps).path
            return {} if path is None else dataclasses.asdict(path)

        stored = _stage(work / f"path-{layer}-{start}.npz", walk)
        if stored:
            parts.append(Gradients(**stored))
        progress.layers(start + len(chunk), len(chosen))
    return parts


def _write(
    source: Source,
    directory: Path,
    base: Manifest,
    learned: _Learned,
    inputs: str,
    progress: Progress,
) -> BuildResult:
    """The bundle at the chosen layer with the extras, moved to its place whole."""
    folder = Path(tempfile.mkdtemp(dir=directory, prefix=f".{base.name}-"))
    try:
        built = build_bundle(source, folder, edit_layer=learned.layer, progress=progress)
        # The prepared bundle stands for the plain one: `models build` must not undo it.
        entry = {**base.extras, PREPARATION: {"inputs": inputs, **learned.report}}
        manifest = add_preparation(built.path, learned.tensors, extras=entry, build_inputs=base.build_inputs)
        with lock_bundle(directory / f".{base.name}.lock", progress):
            move_into_place(built.path, directory / base.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return BuildResult(
        directory / base.name,
        base.name,
        manifest_hash(manifest.to_bytes()),
        manifest.size_bytes,
        manifest.edit_layer,
        True,
    )


def add_preparation(
    bundle: Path,
    tensors: Mapping[str, NDArray[Any]],
    *,
    extras: Mapping[str, Any],
    build_inputs: str,
) -> Manifest:
    """Put what was learned into the bundle in this folder.

    Args:
        bundle: the folder; its manifest is written anew.
        tensors: those of manifest.PREPARED_TENSORS, see prepared.Prepared.
        extras: of the manifest; the entry of the preparation gets the places of the tensors.
        build_inputs: of the manifest.
    """
    manifest, _ = read_manifest(bundle)
    with WeightsFile(bundle / PREPARED_FILE) as file:
        stored = {name: dataclasses.asdict(file.add(array)) for name, array in tensors.items()}
    manifest = dataclasses.replace(
        manifest,
        files={**manifest.files, PREPARED_FILE: describe_file(bundle / PREPARED_FILE)},
        build_inputs=build_inputs,
        extras={**extras, PREPARATION: {**extras[PREPARATION], "tensors": stored}},
    )
    (bundle / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return manifest


def _candidates(manifest: Manifest, settings: PreparationSettings) -> list[int]:
    depth = manifest.architecture.layers
    wanted = settings.layers or tuple(round(depth * share) for share in _LAYER_SHARES)
    layers = sorted({layer for layer in wanted if 0 <= layer < depth - 1})
    if len(layers) < len(set(wanted)):
        raise WorkloadInputError(f"layers {wanted} do not fit {manifest.name}: choose from 0 to {depth - 2}")
    return layers


def _check_enough(records: Sequence[EditRecord], before: str, after: str) -> None:
    if len(records) < 2 * _HELD_OUT_SHARE:
        raise WorkloadInputError(f"{before} {len(records)} facts{after}: at least 16 are needed")


def _fits(texts: _Texts, record: EditRecord) -> bool:
    """Whether the model takes all that the preparation asks about a fact."""
    try:
        tokenize_contexts(texts, record, len(PREFIXES))
        tokenize_questions(texts, questions(record))
    except InputError:
        return False
    return True


def _samples(texts: _Texts, records: Sequence[EditRecord]) -> list[Sample]:
    """Every other fact behind one of the editor's prefixes."""
    from mobifarm.workloads.preparation.samples import sample_of

    prefixes = itertools.cycle(PREFIXES[1:])
    return [
        sample_of(texts, index, record, next(prefixes) if index % 2 else "")
        for index, record in enumerate(records)
    ]


def _is_held_out(fact: int) -> bool:
    return int(fact) % _HELD_OUT_SHARE == _HELD_OUT_SHARE - 1


def _held_out(points: Gradients) -> NDArray[np.bool_]:
    return np.array([_is_held_out(fact) for fact in points.facts])


def _text_tokens(texts: _Texts, path: Path, limit: int) -> list[int]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadInputError(
            f"{path} cannot be read as UTF-8 text ({error}): name another file"
        ) from error
    # A token has at least one character, mostly four; reading more would only cost time.
    tokens = texts.tokenize(text[: 16 * limit])[:limit]
    if len(tokens) < 128:
        raise WorkloadInputError(f"{path.name} has {len(tokens)} tokens: give at least 128, better 40,000")
    return tokens


def _stage(path: Path, compute: Callable[[], Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Arrays of a finished stage from ``path``, or computed and kept there."""
    if not path.exists():
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(unfinished, **compute())  # type: ignore[arg-type]
        os.replace(unfinished, path)
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _replace(path: Path, data: bytes) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)


def _inputs_hash(
    source: Source, text: Path, facts: Path, exclude: Path | None, settings: PreparationSettings
) -> str:
    code = [*sorted(Path(__file__).parent.glob("*.py")), *map(Path, _OTHER_CODE)]
    try:
        files = {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in (("text", text), ("facts", facts), ("exclude", exclude))
            if path is not None
        }
    except OSError as error:
        raise WorkloadInputError(f"{error.filename} cannot be read ({error.strerror})") from error
    inputs = {
        "source": source.fingerprint(),
        "settings": dataclasses.asdict(settings),
        "code": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in code},
        **files,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
