"""From a spec and its records to trials. Pure: the same input gives the same trials on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mobifarm.agent.editor.types import EditRecord
from mobifarm.workloads.designs import DesignKind, block_orders, full_block
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.records import record_to_mapping
from mobifarm.workloads.spec import EvaluationSpec, MethodSpec

TRIAL_LIMIT: Final = 200_000


@dataclass(frozen=True, slots=True)
class Trial:
    """One edit to be made once.

    Attributes:
        trial_id: its number in the job, the same for the same spec and records.
        label: what it is, for people.
        payload: plain JSON with bundle_hash, model, method, method_label, settings (complete), seed, record
            (MobiFarm's own form), repeat and keep; and with a design its block, place and arm.
        group: trials of one group are done by one phone; "" belongs to none.
    """

    trial_id: str
    label: str
    payload: dict[str, Any]
    group: str = ""


def plan(spec: EvaluationSpec, records: Sequence[EditRecord], *, bundle_hash: str) -> list[Trial]:
    """Every repeat of every record with every method.

    Without a design methods change fastest, so that the methods of one fact run next to each other in time
    and on phones in a like condition. The seed depends on the spec's seed, the record and the repeat, not on
    the method: methods are compared on the same randomness.

    Raises:
        WorkloadInputError: more trials than one job may have.
        InputError: a method's settings do not fit (a spec that was loaded has been checked for this).
    """
    edits = len(spec.methods) if spec.design is None else full_block(spec.design)
    number = spec.repeats * len(records) * edits
    if number > TRIAL_LIMIT:
        raise WorkloadInputError(
            f"the evaluation has {number} trials, one job may have {TRIAL_LIMIT}: lower limit or repeats"
        )
    methods = [(method, method.complete_settings()) for method in spec.methods]
    if spec.design is not None:
        return _blocks(spec, spec.design, records, methods, bundle_hash)
    trials: list[Trial] = []
    for repeat in range(spec.repeats):
        for record in records:
            mapping = record_to_mapping(record)
            seed = trial_seed(spec.seed, record.record_id, repeat)
            for method, settings in methods:
                parts = [record.record_id]
                if len(spec.methods) > 1:
                    parts.append(method.title)
                if spec.repeats > 1:
                    parts.append(f"repeat {repeat + 1}")
                payload = _payload(spec, bundle_hash, method, settings, seed, mapping, repeat)
                group = _group(spec, record, "")
                trials.append(Trial(f"{len(trials) + 1:05d}", " · ".join(parts), payload, group))
    return trials


def _blocks(
    spec: EvaluationSpec,
    kind: DesignKind,
    records: Sequence[EditRecord],
    methods: Sequence[tuple[MethodSpec, dict[str, Any]]],
    bundle_hash: str,
) -> list[Trial]:
    """Every repeat of every record as a block of a design, in an order that the spec's seed shuffles.

    All edits of a block have one seed: a method does the same work in both of its edits, and what differs
    between them is the phone's doing.
    """
    generator = np.random.default_rng(spec.seed)
    pairs = [(record, repeat) for repeat in range(spec.repeats) for record in records]
    shuffled = [pairs[int(index)] for index in generator.permutation(len(pairs))]
    trials: list[Trial] = []
    orders = block_orders(kind, len(pairs), generator)
    for block, ((record, repeat), arms) in enumerate(zip(shuffled, orders, strict=True), 1):
        mapping = record_to_mapping(record)
        seed = trial_seed(spec.seed, record.record_id, repeat)
        for place, arm in enumerate(arms):
            method, settings = methods["AB".index(arm)]
            payload = _payload(spec, bundle_hash, method, settings, seed, mapping, repeat)
            payload["design"] = {"block": block, "place": place, "arm": arm}
            label = f"{record.record_id} · {method.title} · block {block}, {place + 1} of {len(arms)}"
            group = _group(spec, record, f"block-{block}")
            trials.append(Trial(f"{len(trials) + 1:05d}", label, payload, group))
    return trials


def _group(spec: EvaluationSpec, record: EditRecord, block: str) -> str:
    match spec.devices.placement:
        case "same_phone":
            return "all"
        case "same_phone_per_record":
            return f"record {record.record_id}"
        case _:
            return block


def _payload(
    spec: EvaluationSpec,
    bundle_hash: str,
    method: MethodSpec,
    settings: dict[str, Any],
    seed: int,
    record: dict[str, Any],
    repeat: int,
) -> dict[str, Any]:
    return {
        "bundle_hash": bundle_hash,
        "model": spec.model,
        "method": method.name,
        "method_label": method.title,
        "settings": settings,
        "seed": seed,
        "record": record,
        "repeat": repeat,
        "keep": spec.keep,
        "telemetry": spec.telemetry,
        "idle_window_s": spec.idle_window_s,
    }


def trial_seed(seed: int, record_id: str, repeat: int) -> int:
    """A seed below 2**53 from a hash, so that neighbouring spec seeds share nothing."""
    digest = hashlib.sha256(f"{seed}/{repeat}/{record_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11
