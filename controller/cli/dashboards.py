"""``mobifarm dashboards``: the shipped files for Prometheus, Alertmanager and Grafana, ready to be used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Final

import typer

from mobifarm.controller.cli.farm import Home
from mobifarm.controller.errors import UserError
from mobifarm.controller.paths import FarmPaths, farm_paths

app = typer.Typer(help="Write out the files for Prometheus and Grafana.", no_args_is_help=True)

SHIPPED_TARGET: Final = "127.0.0.1:8710"
PROMETHEUS: Final = "127.0.0.1:9090"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_TARGET: Final = re.compile(r"(?:(https?)://)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})/?\Z")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Made where it does not exist.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that differ.")]

DATA_SOURCE: Final = f"""\
apiVersion: 1
datasources:
  - name: MobiFarm
    type: prometheus
    access: proxy
    url: http://{PROMETHEUS}
"""


@app.command()
def export(folder: Folder, force: Force = False) -> None:
    """Copy the dashboards and rules as they are, to import them into a Grafana and a Prometheus that run."""
    shipped = {f"prometheus/{name}": text for name, text in _shipped("prometheus").items()}
    shipped |= {f"grafana/{name}": text for name, text in _shipped("grafana").items()}
    _write(folder, shipped, force)


@app.command("serve-config")
def serve_config(
    folder: Folder,
    home: Home = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="[https://]HOST:PORT",
            help="Where the farm answers; that of the farm that runs in the farm's folder, if absent.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Write a folder from which Prometheus, Alertmanager and Grafana can be started, and say how."""
    scheme, address = parse_target(target or _running(farm_paths(home)) or SHIPPED_TARGET)
    written = folder.absolute()
    texts = {f"prometheus/{name}": text for name, text in _shipped("prometheus").items()}
    texts["prometheus/prometheus.yml"] = prometheus_config(
        texts["prometheus/prometheus.yml"], scheme, address
    )
    texts |= {f"grafana/dashboards/{name}": text for name, text in _shipped("grafana").items()}
    texts["grafana/provisioning/datasources/mobifarm.yml"] = DATA_SOURCE
    texts["grafana/provisioning/dashboards/mobifarm.yml"] = _provider(written / "grafana" / "dashboards")
    _write(folder, texts, force)
    typer.echo(
        f"""
The farm is expected at {address}: start it with {_start(scheme, address)}. Then:
  cd {written}
  prometheus --config.file=prometheus/prometheus.yml --storage.tsdb.path=data \\
      --web.listen-address={PROMETHEUS}
  prometheus-alertmanager --config.file=prometheus/alertmanager.yml --storage.path=alerts \\
      --web.listen-address=127.0.0.1:9093 --cluster.listen-address=
  GF_PATHS_PROVISIONING={written}/grafana/provisioning grafana server --homepath /usr/share/grafana"""
    )


def parse_target(text: str) -> tuple[str, str]:
    """Scheme and HOST:PORT of a farm's address.

    Raises:
        UserError: it is something else.
    """
    match = _TARGET.match(text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise UserError(f"{text!r} is no address of a farm: write --target HOST:PORT, as {SHIPPED_TARGET}")
    return match[1] or "http", f"{match[2]}:{match[3]}"


def _start(scheme: str, address: str) -> str:
    """The command with which a farm answers there, in words; --port is for this machine alone."""
    host, _, port = address.rpartition(":")
    if scheme == "https":
        return f"`mobifarm up --bind 0.0.0.0:{port} --certificate farm.pem --key farm.key` on its machine"
    if host in _LOOPBACK:
        return f"`mobifarm up --port {port}`"
    return (
        f"`mobifarm up --bind 0.0.0.0:{port} --without-tls` on its machine, where a VPN or a tunnel protects "
        f"the way; else with a certificate, and give --target https://{address}"
    )


def prometheus_config(shipped: str, scheme: str, address: str) -> str:
    """The shipped ``prometheus.yml`` for a farm elsewhere."""
    lines = []
    for line in shipped.splitlines(keepends=True):
        if not line.startswith("#"):
            line = line.replace(f'["{SHIPPED_TARGET}"]', f'["{address}"]')
        lines.append(line)
        if scheme == "https" and line == "  - job_name: mobifarm\n":
            lines.append("    scheme: https\n")
    return "".join(lines)


def _provider(folder: Path) -> str:
    # JSON is YAML: a folder of any name stays one text.
    return f"""\
apiVersion: 1
providers:
  - name: mobifarm
    folder: MobiFarm
    type: file
    options:
      path: {json.dumps(str(folder), ensure_ascii=False)}
"""


def _running(paths: FarmPaths) -> str | None:
    """The address of the farm that runs in this folder."""
    try:
        return str(json.loads(paths.running.read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _shipped(name: str) -> Mapping[str, str]:
    folder: Traversable = files("mobifarm.dashboards") / name
    found = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return {entry.name: entry.read_text("utf-8") for entry in found if entry.is_file()}


def _write(folder: Path, texts: Mapping[str, str], force: bool) -> None:
    """Write all of the files or none, and print where they are.

    Raises:
        UserError: a file is there and differs, or the folder cannot be written to.
    """
    try:
        for name, text in texts.items():
            path = folder / name
            if not force and path.exists() and path.read_text("utf-8") != text:
                raise UserError(
                    f"{path} is there and differs: choose another folder, or overwrite with --force"
                )
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")
            typer.echo(str(folder / name))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the files cannot be written to {folder}: {error}") from None
