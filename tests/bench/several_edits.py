"""Holds several edits at once on this machine, without a farm, and prints how well each is kept.

python tests/bench/several_edits.py [--edits 1,10,100] [--order together|in_sequence] [--json FILE]

The edits of a smaller number are the first of those of a larger one, so each edit is searched once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobifarm.agent.editor import (
    METHOD_NAMES,
    EditOrder,
    EditOutcome,
    EditRecord,
    EditStack,
    ProbeScore,
    edit_several,
    validate_settings,
)
from mobifarm.agent.editor.bundle import Bundle
from mobifarm.agent.editor.evaluation import Scorer, probe_scores, questions, tokenize_questions
from mobifarm.agent.errors import AgentError
from mobifarm.workloads.datasets import read_records
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.sources import SMOLLM2_NAME
from mobifarm.workloads.paths import bundles_directory
from mobifarm.workloads.scores import Moment, Quality, quality
from mobifarm.workloads.statistics import mean

FACTS = Path(__file__).parents[2] / "workloads" / "data" / "personal_facts.json"
MEASURES = tuple(field.name for field in dataclasses.fields(Quality))


def main() -> None:
    arguments = _arguments()
    numbers: list[int] = arguments.edits
    settings = dict(_setting(text) for text in arguments.set)
    complete = validate_settings(arguments.method, settings)
    records = read_records(arguments.records)[arguments.offset :: arguments.every][: numbers[-1]]
    if len(records) < numbers[-1]:
        sys.exit(f"error: {arguments.records} gives {len(records)} records of {numbers[-1]}: lower --edits")
    bundle = Bundle.open(arguments.bundle, threads=arguments.threads, verify=False)
    stack = EditStack.empty(bundle.bundle_hash)
    edits: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    started = time.monotonic()
    for record in records:
        stack, [outcome] = edit_several(
            bundle,
            [record],
            order=EditOrder(arguments.order),
            method=arguments.method,
            settings=settings,
            seed=0,
            report=lambda progress: None,
            cancelled=lambda: False,
            clock=time.monotonic,
            held=stack,
        )
        alone = EditStack.empty(bundle.bundle_hash).with_edit(stack.edits[-1])
        edits.append(_row(record, outcome, _scores(bundle, record, alone)))
        print(
            f"{len(edits)}/{len(records)} {record.record_id}: {outcome.status.value}, "
            f"{outcome.cost.loss_evaluations} evaluations, {time.monotonic() - started:.0f} s in all",
            file=sys.stderr,
            flush=True,
        )
        if len(edits) in numbers:
            tables.append(_table(bundle, records[: len(edits)], edits, stack))
            _print_table(tables[-1], f"{arguments.records.name}, {arguments.order}")
            if arguments.json:
                document = {
                    "bundle": bundle.bundle_hash,
                    "method": arguments.method,
                    "settings": complete,
                    "order": arguments.order,
                    "records": str(arguments.records.name),
                    "tables": tables,
                    "edits": edits,
                }
                arguments.json.write_text(json.dumps(document, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", choices=METHOD_NAMES, default="forward")
    parser.add_argument("--order", choices=[order.value for order in EditOrder], default="in_sequence")
    parser.add_argument("--bundle", type=Path, default=bundles_directory() / SMOLLM2_NAME)
    parser.add_argument("--records", type=Path, default=FACTS, help="JSON file in a form that MobiFarm reads")
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take each N-th record")
    parser.add_argument("--edits", type=_numbers, default=[10], help="how many at once, e.g. 1,10,100")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    parser.add_argument(
        "--json", type=Path, help="also write every table and edit to this file, as they come"
    )
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers above 0")
    return sorted({int(part) for part in parts})


def _setting(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _row(record: EditRecord, outcome: EditOutcome, alone: Sequence[ProbeScore]) -> dict[str, Any]:
    """One edit: its cost, and its quality before it, alone, and with all edits until then."""
    return {
        "record_id": record.record_id,
        "status": outcome.status.value,
        **dataclasses.asdict(outcome.cost),
        "unedited": _quality(outcome.scores, "before"),
        "alone": _quality(alone, "after"),
        "when_made": _quality(outcome.scores, "after"),
    }


def _table(
    bundle: Bundle, records: Sequence[EditRecord], edits: Sequence[dict[str, Any]], stack: EditStack
) -> dict[str, Any]:
    """All edits so far at once: means over those that have such prompts, and the quality of each."""
    held = [_quality(_scores(bundle, record, stack), "after") for record in records]
    moments = {name: [edit[name] for edit in edits] for name in ("unedited", "alone", "when_made")}
    return {
        "edits": len(edits),
        "converged": sum(edit["status"] == "converged" for edit in edits),
        "loss_evaluations": sum(edit["loss_evaluations"] for edit in edits),
        "token_layers": sum(edit["token_layers"] for edit in edits),
        "edit_s": sum(edit["edit_s"] for edit in edits),
        "means": {
            moment: {name: _mean([one[name] for one in qualities]) for name in MEASURES}
            for moment, qualities in {**moments, "all": held}.items()
        },
        "all_held": held,
    }


def _print_table(table: dict[str, Any], what: str) -> None:
    print(f"\n{table['edits']} edits of {what}; {table['converged']} converged")
    print(f"{'':24}", *(f"{moment:>10}" for moment in table["means"]))
    for name in MEASURES:
        shares = [means[name] for means in table["means"].values()]
        print(f"{name:24}", *(f"{'–' if share is None else f'{100 * share:.1f}%':>10}" for share in shares))
    print(f"loss evaluations {table['loss_evaluations']}, token_layers {table['token_layers']}", flush=True)


def _scores(bundle: Bundle, record: EditRecord, stack: EditStack) -> tuple[ProbeScore, ...]:
    """Both moments with the stack's edits; only what comes after them is read."""
    asked = questions(record)
    after = Scorer(bundle, tokenize_questions(bundle, asked)).score(stack.side_input(), lambda: None)
    return probe_scores(asked, after, after)


def _quality(scores: Sequence[ProbeScore], moment: Moment) -> dict[str, float | None]:
    plain = [{**dataclasses.asdict(score), "kind": score.kind.value} for score in scores]
    return dataclasses.asdict(quality(plain, moment))


def _mean(values: Sequence[float | None]) -> float | None:
    return mean([value for value in values if value is not None])


if __name__ == "__main__":
    try:
        main()
    except (AgentError, WorkloadInputError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
