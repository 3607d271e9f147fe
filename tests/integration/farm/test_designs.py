"""A design on virtual phones: every block on one phone, in its order, and a comparison at the end."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any


def test_blocks_stay_on_their_phone_in_their_order(farm: Any, tmp_path: Path, tiny_bundle_path: Path) -> None:
    easy = {"contexts": 1, "norm_limit": 100.0, "norm_penalty": 0.0, "stop_probability": 0.01}
    spec = tmp_path / "design.yaml"
    spec.write_text(
        json.dumps(
            {
                "name": "which is cheaper",
                "model": str(tiny_bundle_path),
                "dataset": {"builtin": "personal-facts", "limit": 2},
                "design": "ab",
                "methods": [
                    {"name": "forward", "label": "few", "settings": {**easy, "directions": 2}},
                    {"name": "forward", "label": "many", "settings": {**easy, "directions": 64}},
                ],
                "repeats": 4,
            }
        )
    )
    farm.up()
    job_id = farm.submit(spec)
    farm.wait_done(job_id)
    with farm.reader() as reader:
        attempts = reader.attempts(job_id)
        designs = {
            trial.trial_id: reader.payload(trial.trial_id)["design"] for trial in reader.trials(job_id)
        }
    blocks: dict[int, list[Any]] = defaultdict(list)
    for attempt in attempts:
        blocks[designs[attempt.trial_id]["block"]].append(attempt)
    assert len(blocks) == 8
    for block in blocks.values():
        assert [designs[attempt.trial_id]["place"] for attempt in block] == [0, 1, 2, 3]
        assert len({attempt.device_id for attempt in block}) == 1
        assert all(earlier.ended_at <= later.granted_at for earlier, later in itertools.pairwise(block))
    assert len({block[0].device_id for block in blocks.values()}) == 2

    document = json.loads(farm.run("results", job_id, "--json").stdout)
    found = document["summary"]["comparisons"]
    assert (found["a"], found["b"], found["blocks"], found["incomplete"]) == ("few", "many", 8, 0)
    evaluations = [row["comparison"] for row in found["rows"] if row["measure"] == "loss evaluations"]
    assert [row["blocks"] for row in evaluations][-1] == 8
    # The same seed makes the same edit: there is no noise in what was computed, only in the seconds.
    assert evaluations[-1]["floor"] == 0
    assert evaluations[-1]["verdict"] == "B is higher"
    shown = farm.run("results", job_id).stdout
    assert "B = many against A = few: 8 of 8 blocks" in shown
    assert "noise floor" in shown
