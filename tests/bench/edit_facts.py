"""Edits facts on this machine, without a farm, and prints how well and at what cost.

python tests/bench/edit_facts.py [--method NAME] [--bundle FOLDER] [--records FILE] [--set NAME=VALUE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from mobifarm.agent.editor import METHOD_NAMES, EditOutcome, EditRecord, EditStatus, edit, validate_settings
from mobifarm.agent.editor.bundle import Bundle
from mobifarm.agent.errors import AgentError
from mobifarm.workloads.datasets import read_records
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.sources import SMOLLM2_NAME
from mobifarm.workloads.paths import bundles_directory
from mobifarm.workloads.scores import Moment, quality
from mobifarm.workloads.statistics import mean, quantile

FACTS = Path(__file__).parents[2] / "workloads" / "data" / "personal_facts.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=bundles_directory() / SMOLLM2_NAME)
    parser.add_argument("--method", choices=METHOD_NAMES, default="forward")
    parser.add_argument("--records", type=Path, default=FACTS, help="JSON file in a form that MobiFarm reads")
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take each N-th record")
    parser.add_argument("--limit", type=int, default=36)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    parser.add_argument("--json", type=Path, help="also write every edit to this file")
    arguments = parser.parse_args()
    settings = dict(_setting(text) for text in arguments.set)
    complete = validate_settings(arguments.method, settings)
    records = read_records(arguments.records)[arguments.offset :: arguments.every][: arguments.limit]
    bundle = Bundle.open(arguments.bundle, threads=arguments.threads, verify=False)
    rows = []
    for record in records:
        rows.append(_row(bundle, record, arguments.method, settings))
        print({name: value for name, value in rows[-1].items() if name != "scores"}, flush=True)
    _print_table(rows)
    if arguments.json:
        document = {
            "bundle": bundle.bundle_hash,
            "method": arguments.method,
            "settings": complete,
            "edits": rows,
        }
        arguments.json.write_text(json.dumps(document, indent=1))


def _setting(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _row(bundle: Bundle, record: EditRecord, method: str, settings: dict[str, object]) -> dict[str, Any]:
    cpu_s = time.process_time()
    outcome: EditOutcome = edit(
        bundle,
        record,
        method=method,
        settings=settings,
        seed=0,
        report=lambda progress: None,
        cancelled=lambda: False,
        clock=time.monotonic,
    )
    cost = outcome.cost
    scores = [{**dataclasses.asdict(score), "kind": score.kind.value} for score in outcome.scores]
    return {
        "record_id": record.record_id,
        "converged": outcome.status is EditStatus.CONVERGED,
        "steps": cost.steps,
        "loss_evaluations": cost.loss_evaluations,
        "token_layers": cost.token_layers,
        "wall_s": cost.edit_s + cost.evaluation_s,
        "cpu_s": time.process_time() - cpu_s,
        "scores": scores,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    print(f"\n{len(rows)} edits, {sum(row['converged'] for row in rows)} reached the stop probability")
    moments: tuple[Moment, ...] = ("before", "after")
    for name in dataclasses.asdict(quality(rows[0]["scores"], "before")):
        shares = []
        for moment in moments:
            values = [getattr(quality(row["scores"], moment), name) for row in rows]
            shares.append(mean([value for value in values if value is not None]))
        print(f"{name:24}", *("    –" if share is None else f"{100 * share:5.1f} %" for share in shares))
    for name in ("steps", "loss_evaluations", "token_layers", "wall_s", "cpu_s"):
        values = [float(row[name]) for row in rows]
        print(f"{name:24} median {quantile(values, 0.5):10.1f}   p90 {quantile(values, 0.9):10.1f}")


if __name__ == "__main__":
    try:
        main()
    except (AgentError, WorkloadInputError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
