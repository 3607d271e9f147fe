"""Holds several edits at once on this machine, without a farm, and prints how well each is kept.

python tests/bench/several_edits.py [--edits N] [--order together|in_sequence] [--set NAME=VALUE]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from mobifarm.agent.editor import METHOD_NAMES, EditOrder, EditRecord, EditStack, ProbeScore, edit_several
from mobifarm.agent.editor.bundle import Bundle
from mobifarm.agent.editor.evaluation import Scorer, probe_scores, questions, tokenize_questions
from mobifarm.workloads.datasets import read_records
from mobifarm.workloads.models.sources import SMOLLM2_NAME
from mobifarm.workloads.paths import bundles_directory
from mobifarm.workloads.scores import Moment, Quality, quality
from mobifarm.workloads.statistics import mean

FACTS = Path(__file__).parents[2] / "workloads" / "data" / "personal_facts.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", choices=METHOD_NAMES, default="forward")
    parser.add_argument("--order", choices=[order.value for order in EditOrder], default="in_sequence")
    parser.add_argument("--bundle", type=Path, default=bundles_directory() / SMOLLM2_NAME)
    parser.add_argument("--records", type=Path, default=FACTS, help="JSON file in a form that MobiFarm reads")
    parser.add_argument("--every", type=int, default=1, help="take each N-th record")
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    arguments = parser.parse_args()
    records = read_records(arguments.records)[:: arguments.every][: arguments.edits]
    bundle = Bundle.open(arguments.bundle, threads=arguments.threads, verify=False)
    stack, outcomes = edit_several(
        bundle,
        records,
        order=EditOrder(arguments.order),
        method=arguments.method,
        settings=dict(_setting(text) for text in arguments.set),
        seed=0,
        report=lambda progress: None,
        cancelled=lambda: False,
        clock=time.monotonic,
    )
    unedited = EditStack.empty(stack.bundle_hash)
    alone = [
        _scores(bundle, record, unedited.with_edit(held)) for record, held in zip(records, stack, strict=True)
    ]
    print(f"{len(records)} edits of {arguments.records.name}, {arguments.order}")
    together = [outcome.scores for outcome in outcomes]
    for name in (field.name for field in dataclasses.fields(Quality)):
        shares = (
            _share(together, "before", name),
            _share(alone, "after", name),
            _share(together, "after", name),
        )
        print(f"{name:24}", *("     –" if share is None else f"{100 * share:5.1f}%" for share in shares))
    print("columns: unedited, each edit alone, all of them")
    print("loss evaluations", sum(outcome.cost.loss_evaluations for outcome in outcomes))


def _share(edits: Sequence[Sequence[ProbeScore]], moment: Moment, name: str) -> float | None:
    """Mean over the edits that have such prompts."""
    plain = [[{**dataclasses.asdict(score), "kind": score.kind.value} for score in edit] for edit in edits]
    values = [getattr(quality(scores, moment), name) for scores in plain]
    return mean([value for value in values if value is not None])


def _setting(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _scores(bundle: Bundle, record: EditRecord, stack: EditStack) -> tuple[ProbeScore, ...]:
    asked = questions(record)
    scorer = Scorer(bundle, tokenize_questions(bundle, asked))
    before = scorer.score(None, lambda: None)
    return probe_scores(asked, before, scorer.score(stack.side_input(), lambda: None))


if __name__ == "__main__":
    main()
