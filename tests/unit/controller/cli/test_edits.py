"""Which bundle's edits are meant, and what is said of them; the farm is scripted."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mobifarm.controller.cli import edits
from mobifarm.controller.errors import UserError


def kept(bundle_hash: str, *names: str, problem: str = "") -> dict[str, Any]:
    listed = [{"edit_id": name, "prompt": "p", "target_new": "[red]x", "method": "forward"} for name in names]
    return {"bundle_hash": bundle_hash, "bundle_name": "tiny", "problem": problem, "edits": listed}


class ScriptedClient:
    """Answers as the API does and writes down what it was asked."""

    bundles: list[dict[str, Any]]
    posted: list[tuple[str, Any]]

    def __init__(self, paths: object) -> None:
        pass

    def __enter__(self) -> ScriptedClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get(self, path: str) -> Any:
        if "/export?bundle=" in path:
            return {"exported": base64.b64encode(path.rpartition("=")[2].encode()).decode()}
        return {"bundles": self.bundles}

    def post(self, path: str, body: Any) -> Any:
        self.posted.append((path, body))
        return {"undone": body.get("edit_ids", ["r1", "r2"]), "kept": 5, "imported": ["r1"]}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedClient]:
    ScriptedClient.bundles, ScriptedClient.posted = [kept("ab" * 32, "r1", "r2"), kept("cd" * 32, "r3")], []
    monkeypatch.setattr(edits, "FarmClient", ScriptedClient)
    return ScriptedClient


def run(*arguments: str) -> Result:
    return CliRunner().invoke(edits.app, list(arguments))


def refusal(*arguments: str) -> str:
    error = run(*arguments).exception
    assert isinstance(error, UserError)
    return str(error)


def test_every_bundle_is_listed_and_a_damaged_one_said(client: type[ScriptedClient]) -> None:
    client.bundles.append(kept("ef" * 32, problem="the kept edits are damaged"))
    shown = run("list", "phone").stdout
    assert all(word in shown for word in ("r1", "r3", "[red]x", "(efefefefefef): the kept edits are damaged"))
    assert "r1" not in run("list", "phone", "--bundle", "CD").stdout
    client.bundles = client.bundles[:1]
    others = run("list", "phone", "--bundle", "00").stdout
    assert others == "the phone phone keeps no edits of this bundle; it keeps some of tiny (abababababab)\n"
    client.bundles = []
    assert run("list", "phone", "--bundle", "00").stdout == "the phone phone keeps no edits\n"


def test_what_a_phone_says_is_not_obeyed_by_the_terminal(client: type[ScriptedClient]) -> None:
    client.bundles = [kept("ab" * 32, "r\x1b[2J\x9b2J🐕"), kept("ef" * 32, problem="\x1b]0;title\x07")]
    for one in client.bundles:
        one["bundle_name"] = "[red]\x1bname"
    shown = run("list", "phone").stdout
    assert not set(shown) & {"\x1b", "\x9b", "\x07"}
    assert all(words in shown for words in ("r�[2J�2J🐕", "of [red]�name (ab", "�]0;title�"))


def test_the_bundle_is_chosen_where_there_are_several(client: type[ScriptedClient]) -> None:
    assert "several bundles: choose tiny (abababababab), tiny (cdcd" in refusal("undo", "phone", "r1")
    assert "other bundles: choose tiny (ab" in refusal("undo", "phone", "r1", "--bundle", "00")
    assert "one of --bundle and --model" in refusal("undo", "phone", "r1", "--bundle", "00", "--model", "m")
    done = run("undo", "phone", "r3", "--bundle", "cd")
    assert done.stdout == "undid 1 edit on phone; it keeps 5\n"
    body = {"bundle_hash": "cd" * 32, "edit_ids": ["r3"]}
    assert client.posted == [("/api/v1/devices/phone/edits/undo", body)]


def test_all_or_some_are_undone_but_not_both(client: type[ScriptedClient]) -> None:
    client.bundles = client.bundles[:1]
    assert "or give --all" in refusal("undo", "phone")
    assert "or give --all" in refusal("undo", "phone", "r1", "--all")
    assert client.posted == []
    assert "undid 2 edits" in run("undo", "phone", "--all").stdout
    assert client.posted[0][1] == {"bundle_hash": "ab" * 32, "all": True}
    client.bundles = []
    assert refusal("undo", "phone", "--all") == "the phone phone keeps no edits"


def test_files_are_written_once_and_read_whole(client: type[ScriptedClient], tmp_path: Path) -> None:
    file = tmp_path / "edits.npz"
    assert "wrote 1 edit" in run("export", "phone", str(file), "--bundle", "cd").stdout
    assert file.read_bytes() == b"cd" * 32
    assert "exists already" in refusal("export", "phone", str(file), "--bundle", "cd")
    assert "cannot be written" in refusal("export", "phone", str(tmp_path / "no" / "file"), "--bundle", "cd")
    assert "imported 1 edit on phone; it keeps 5" in run("import", "phone", str(file)).stdout
    assert base64.b64decode(client.posted[-1][1]["exported"]) == file.read_bytes()
    assert "cannot be read" in refusal("import", "phone", str(tmp_path / "none"))
