from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mobifarm.controller.cli import farm
from mobifarm.controller.farm import serve as serving


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], []),
        (["--bind", "192.0.2.7:8443", "--without-tls"], ["other machines reach it at http://192.0.2.7:8443"]),
    ],
)
def test_up_tells_where_other_machines_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], told: list[str]
) -> None:
    def serve(*_: Any, announce: partial[None], **__: Any) -> None:
        announce("http://127.0.0.1:1", "key")

    monkeypatch.setattr(serving, "serve", serve)
    app = typer.Typer()
    app.command()(farm.up)
    done = CliRunner().invoke(app, ["--home", str(tmp_path), *options])
    lines = done.output.splitlines()
    assert "ready http://127.0.0.1:1" in lines
    assert [line.partition(" with ")[0] for line in lines if line.startswith("other")] == told
