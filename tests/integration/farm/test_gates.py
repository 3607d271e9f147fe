"""A phone that is too warm: a job that asks for a cool one waits for it, is told why, and then starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobifarm.simulator.virtual_phones import VirtualPhones

from .conftest import FarmUnderTest


def test_a_gated_job_waits_for_a_hot_phone_to_cool_down(
    empty_farm: FarmUnderTest, spec: Callable[[int, dict[str, Any]], Path]
) -> None:
    farm = empty_farm
    gated = spec(1, {})
    # What the farm has not heard yet must not let the trial start, either.
    gates = {"max_temperature_celsius": 40, "unknown": "refuse"}
    gated.write_text(json.dumps({**json.loads(gated.read_text()), "gates": gates}))
    with VirtualPhones(1, profiles=["pixel-8"], home=farm.home / "virtual") as phones:
        phones.control(0).heat_up()
        farm.up()
        job_id = farm.submit(gated)
        held = farm.wait(
            lambda reader: next((phone for phone in reader.devices() if phone.state == "cooling"), None),
            "the phone being held back",
        )
        assert "it waits until it is at 40 °C or below" in held.reason
        assert job_id in held.reason
        answer = json.loads(farm.run("why", job_id, "--json").stdout)
        assert (answer["waiting"], answer["running"]) == (1, 0)
        (phone,) = answer["phones"]
        assert phone["device_id"] == phones.phones[0].address
        assert "above 40 °C" in phone["words"]

        phones.control(0).cool_down()
        farm.wait_done(job_id)
    with farm.reader() as reader:
        (attempt,) = reader.attempts(job_id)
        assert (attempt.device_id, attempt.state) == (held.device_id, "done")
