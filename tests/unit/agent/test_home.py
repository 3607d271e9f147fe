"""One agent per folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mobifarm.agent.home import AgentHome, HomeError, default_address


def test_only_one_agent_at_a_time(tmp_path: Path):
    first, second = AgentHome(tmp_path / "home"), AgentHome(tmp_path / "home")
    first.take()
    with pytest.raises(HomeError, match=f"process id {os.getpid()} already runs"):
        second.take()
    first.release()
    second.take()
    second.release()


def test_tokens_differ_and_are_private(tmp_path: Path):
    home = AgentHome(tmp_path)
    home.take()
    token = home.make_token()
    assert len(token) == 64
    assert (tmp_path / "agent/token").read_text() == token
    assert (tmp_path / "agent/token").stat().st_mode & 0o777 == 0o600
    assert home.make_token() != token
    home.release()


def test_an_announcement_ends_with_the_agent_or_with_the_next_start(tmp_path: Path):
    home = AgentHome(tmp_path)
    home.take()
    announcement = {
        "address": "unix-abstract:x",
        "agent_version": "1",
        "session_id": "s",
        "started_boottime_ns": 5,
    }
    home.announce(**announcement)
    assert json.loads((tmp_path / "agent/ready.json").read_text()) == announcement | {"pid": os.getpid()}
    home.release()  # as if killed

    following = AgentHome(tmp_path)
    following.take()
    assert not (tmp_path / "agent/ready.json").exists()
    following.announce(**announcement)
    following.withdraw()
    assert not (tmp_path / "agent/ready.json").exists()
    following.release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="--home"):
        AgentHome(tmp_path / "file" / "home").take()


def test_phones_get_addresses_of_their_own():
    here, there = Path("/data/local/tmp/mobifarm"), Path("/elsewhere")
    addresses = {default_address(home, serial) for home in (here, there) for serial in ("A", "B")}
    assert len(addresses) == 4
    assert default_address(here, "A") in addresses
    assert all(address.startswith("unix-abstract:mobifarm-agent-") for address in addresses)
