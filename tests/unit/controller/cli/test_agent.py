"""``mobifarm agent bundle``; the runtime itself is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mobifarm.controller.cli import agent
from mobifarm.controller.errors import UserError
from mobifarm.controller.provisioning.packing.archive import Member, pack
from mobifarm.controller.provisioning.runtime import Runtime


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    calls: list[bool] = []

    def ensure(cache: Path, abi: str, report: Any, *, anew: bool) -> Runtime:
        calls.append(anew)
        report("downloading [red]things")
        members = (
            [Member("inputs.json", content=b'{"debian": {"libc6": "00"}}')] if abi == "arm64-v8a" else []
        )
        return Runtime(
            abi, pack(tmp_path, [*members, Member("a", content=b"1")], level=1), pack(tmp_path, [], level=1)
        )

    monkeypatch.setattr(agent, "ensure_runtime", ensure)
    monkeypatch.setattr(agent, "known_abis", lambda: ["arm64-v8a", "x86_64"])
    return calls


def test_it_says_what_it_does_and_what_came_out(built: list[bool]) -> None:
    outcome = CliRunner().invoke(agent.app, ["bundle"], catch_exceptions=False)
    assert [line.split()[0] for line in outcome.stdout.splitlines()] == ["Python", "agent"]
    assert outcome.stdout.count(".tar.gz") == 2
    assert built == [False]


def test_its_inputs_are_told_to_programs(built: list[bool]) -> None:
    command = ["bundle", "--abi", "arm64-v8a", "--anew", "--json"]
    document = json.loads(CliRunner().invoke(agent.app, command, catch_exceptions=False).stdout)
    assert built == [True]
    assert document["abi"] == "arm64-v8a"
    assert document["inputs"] == {"debian": {"libc6": "00"}}
    assert Path(document["python"]["path"]).stat().st_size == document["python"]["size_bytes"]
    command = ["bundle", "--abi", "x86_64", "--json"]
    assert json.loads(CliRunner().invoke(agent.app, command).stdout)["inputs"] is None


def test_an_unknown_processor_is_refused_with_the_known_ones(built: list[bool]) -> None:
    with pytest.raises(UserError, match=r"no runtime for 'mips'; choose one of: arm64-v8a, x86_64"):
        CliRunner().invoke(agent.app, ["bundle", "--abi", "mips"], catch_exceptions=False)
    assert built == []
