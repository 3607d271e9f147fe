from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mobifarm.controller.cli.dashboards import app, parse_target, prometheus_config
from mobifarm.controller.errors import UserError
from mobifarm.dashboards.boards import BOARDS

SHIPPED = Path(str(files("mobifarm.dashboards")))


def run(*arguments: object) -> str:
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_export_copies_what_is_shipped(tmp_path: Path) -> None:
    run("export", tmp_path)
    for folder in ("prometheus", "grafana"):
        for path in (SHIPPED / folder).iterdir():
            assert (tmp_path / folder / path.name).read_bytes() == path.read_bytes()
    assert {f"grafana/{name}.json" for name in BOARDS} <= files_below(tmp_path)
    run("export", tmp_path)  # again is no harm


def test_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "prometheus" / "alertmanager.yml"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError, match="differs"):
        run("export", tmp_path)
    assert files_below(tmp_path) == {"prometheus/alertmanager.yml"}
    run("export", tmp_path, "--force")
    assert mine.read_text() != "mine"


def test_a_folder_that_is_a_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run("export", tmp_path / "file")


def test_the_configuration_asks_the_farm_that_runs(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / 'a "folder"'
    home.mkdir()
    (home / "running.json").write_text(json.dumps({"url": "http://127.0.0.1:4711"}))
    said = run("serve-config", folder, "--home", home)
    assert "mobifarm up --port 4711" in said
    configuration = yaml.safe_load((folder / "prometheus" / "prometheus.yml").read_text())
    assert configuration["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:4711"]}]
    provisioning = folder / "grafana" / "provisioning"
    provider = yaml.safe_load((provisioning / "dashboards" / "mobifarm.yml").read_text())["providers"][0]
    found = Path(provider["options"]["path"])
    assert {path.stem for path in found.iterdir()} == set(BOARDS)
    source = yaml.safe_load((provisioning / "datasources" / "mobifarm.yml").read_text())["datasources"][0]
    assert source["type"] == "prometheus"


def test_without_a_farm_the_port_is_that_of_the_shipped_file(tmp_path: Path) -> None:
    assert "--port 8710" in run("serve-config", tmp_path / "folder", "--home", tmp_path)


def test_a_farm_behind_tls_is_asked_by_tls() -> None:
    shipped = (SHIPPED / "prometheus" / "prometheus.yml").read_text()
    made = yaml.safe_load(prometheus_config(shipped, *parse_target("https://farm.example:8443/")))
    (scrape,) = made["scrape_configs"]
    assert scrape["scheme"] == "https"
    assert scrape["static_configs"] == [{"targets": ["farm.example:8443"]}]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("localhost:8711", "with `mobifarm up --port 8711`."),
        ("https://farm.example:8443", "up --bind 0.0.0.0:8443 --certificate farm.pem --key farm.key` on its"),
        ("https://127.0.0.1:8443", "up --bind 0.0.0.0:8443 --certificate farm.pem --key farm.key` on its"),
        ("farm.example:8443", "up --bind 0.0.0.0:8443 --without-tls` on its machine, where a VPN"),
    ],
)
def test_the_command_that_is_named_starts_a_farm_that_answers_there(
    target: str, words: str, tmp_path: Path
) -> None:
    assert words in run("serve-config", tmp_path / "folder", "--target", target)


@pytest.mark.parametrize("text", ["", "farm", "farm:0", "farm:99999", "ftp://farm:1", 'a"b:1', "a b:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--target"):
        parse_target(text)
