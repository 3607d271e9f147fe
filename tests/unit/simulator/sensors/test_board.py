"""Heat that comes from outside."""

from __future__ import annotations

from pathlib import Path

from mobifarm.simulator.profile import load_profile
from mobifarm.simulator.sensors.board import SensorBoard


def test_a_phone_that_was_heated_shows_it_and_cools_as_slowly_as_ever(tmp_path: Path) -> None:
    folders = tmp_path / "sys", tmp_path / "services"
    for folder in folders:
        folder.mkdir()
    board = SensorBoard(load_profile("pixel-8"), *folders, 0.0, machine_cores=2)
    board.create()
    shown = tmp_path / "sys" / "class" / "power_supply" / "battery" / "temp"
    assert int(shown.read_text()) < 300
    board.set_temperature(60.0)
    board.update(0.5, 0.0, plugged=False, powered=True)
    assert 595 <= int(shown.read_text()) <= 600
    board.update(3600.0, 0.0, plugged=False, powered=True)
    assert int(shown.read_text()) < 400
