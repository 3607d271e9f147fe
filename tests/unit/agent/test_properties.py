"""What getprop prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobifarm.agent.properties import parse_properties, read_properties


def test_reads_values_over_lines_and_leaves_empty_ones_out():
    text = "[ro.serialno]: [ABC]\n[ro.empty]: []\n[persist.x]: [two\nlines]\n[ro.odd]: [a]b]\nnoise\n"
    assert parse_properties(text) == {"ro.serialno": "ABC", "persist.x": "two\nlines", "ro.odd": "a]b"}


def test_asks_the_command_and_takes_any_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = tmp_path / "getprop"
    command.write_text("#!/bin/sh\nprintf '[ro.x]: [\\377]\\n'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_properties() == {"ro.x": "\ufffd"}


def test_is_empty_without_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_properties() == {}
