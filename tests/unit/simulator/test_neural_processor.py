"""The neural processor's process, here on the computer's processor: what it does without an emulator."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mobifarm.simulator.neural_processor import SOCKET, NeuralProcessor, NeuralProcessorError

ALL = frozenset(os.sched_getaffinity(0))


async def test_it_listens_and_what_it_says_later_fills_no_pipe(tmp_path: Path) -> None:
    processor = NeuralProcessor("cpu", tmp_path / "data", tmp_path / "log", ALL)
    await processor.start()
    try:
        assert (tmp_path / "data" / SOCKET).is_socket()
        said, told = (os.readlink(f"/proc/{processor.pid}/fd/{number}") for number in (1, 2))
        assert said == told == str(tmp_path / "log")
    finally:
        await processor.stop()
    assert processor.pid == 0
    assert not (tmp_path / "data" / SOCKET).exists()


async def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    processor = NeuralProcessor("SM1", tmp_path, tmp_path / "log", ALL)
    with pytest.raises(NeuralProcessorError, match="no HTP is known for 'SM1'"):
        await processor.start()
    assert processor.pid == 0
