"""The real Prometheus and Alertmanager watch a farm at work: panels have data, a pulled cable is told.

`scripts/setup_monitoring.sh` fetches both.
"""

from __future__ import annotations

import json
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml

from mobifarm.controller.client import FarmClient
from mobifarm.controller.paths import farm_paths
from mobifarm.dashboards.boards import BOARDS
from mobifarm.dashboards.panels import Panel
from mobifarm.workloads.paths import cache_directory

RULES = Path(str(files("mobifarm.dashboards") / "prometheus"))
DEADLINE_S = 240.0
PIXEL, GALAXY = 0, 1  # the fixture's phones

# Panels without a line where the phone's agent does not read this sensor.
NEEDS_SENSOR = {"Thermal status": "thermal/status"}

Found = TypeVar("Found")


def program(name: str) -> str:
    """A program of Debian's packages, installed or in the cache; skips the test without it."""
    unpacked = str(cache_directory() / "monitoring" / "usr" / "bin")
    found = shutil.which(name) or shutil.which(name, path=unpacked)
    if found is None:
        pytest.skip(f"{name} is not here: scripts/setup_monitoring.sh fetches it")
    return found


def until(condition: Callable[[], Found], what: str) -> Found:
    """Ask again and again until the answer is something true."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen in {DEADLINE_S} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(log: Path, *command: str) -> Iterator[None]:
    """A program until the end of the block."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


class Webhook:
    """Keeps what Alertmanager posts."""

    def __init__(self, stack: ExitStack) -> None:
        self.posts: queue.Queue[dict[str, Any]] = queue.Queue()
        posts = self.posts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posts.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}/alerts"

    def wait_for(self, name: str, device: str, status: str) -> Mapping[str, Any]:
        """The first alert of this name about this phone in this state."""
        end = time.monotonic() + DEADLINE_S
        while (left := end - time.monotonic()) > 0:
            try:
                post = self.posts.get(timeout=left)
            except queue.Empty:
                break
            for alert in post["alerts"]:
                labels = alert["labels"]
                if (labels["alertname"], labels.get("device"), alert["status"]) == (name, device, status):
                    return dict(alert)
        raise AssertionError(f"{name} of {device} was not {status} at the webhook in {DEADLINE_S} s")


class Prometheus:
    """The shipped rules over one farm, hastened: scrapes twice a second, alerts without patience."""

    def __init__(self, folder: Path, stack: ExitStack, target: str, webhook: str) -> None:
        prometheus, alertmanager = program("prometheus"), program("prometheus-alertmanager")
        port, alerts_port = free_port(), free_port()
        self.began_at = time.time()
        url, alerts_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{alerts_port}"
        self._http = stack.enter_context(httpx.Client(base_url=url, timeout=30, trust_env=False))
        for name in ("alert-rules.yml", "recording-rules.yml"):
            rules = yaml.safe_load((RULES / name).read_text())
            for rule in (rule for group in rules["groups"] for rule in group["rules"]):
                if "for" in rule:
                    rule["for"] = "1s"
            (folder / name).write_text(yaml.safe_dump(rules))
        configuration = yaml.safe_load((RULES / "prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
        configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        managers = configuration["alerting"]["alertmanagers"][0]["static_configs"][0]
        managers["targets"] = [f"127.0.0.1:{alerts_port}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        alerting = yaml.safe_load((RULES / "alertmanager.yml").read_text())
        alerting["route"] |= {"group_wait": "1s", "group_interval": "1s"}
        alerting["receivers"][0]["webhook_configs"][0]["url"] = webhook
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(alerting))
        stack.enter_context(
            running(
                folder / "alertmanager.log",
                alertmanager,
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alerts'}",
                f"--web.listen-address=127.0.0.1:{alerts_port}",
                "--cluster.listen-address=",
            )
        )
        stack.enter_context(
            running(
                folder / "prometheus.log",
                prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address=127.0.0.1:{port}",
            )
        )
        for name, address in (("prometheus", url), ("alertmanager", alerts_url)):
            log = folder / f"{name}.log"
            until(lambda at=address, log=log: self._is_ready(at, log), f"{name} getting ready")

    def _is_ready(self, url: str, log: Path) -> bool:
        try:
            return self._http.get(f"{url}/-/ready").is_success
        except httpx.TransportError:
            assert "level=error" not in log.read_text(), log.read_text()
            return False

    def ask(self, expression: str) -> list[Any]:
        """What it knows now."""
        return self._query("/api/v1/query", {"query": expression})

    def since_the_start(self, expression: str) -> list[Any]:
        """Every line of the expression since the first scrape."""
        span = {"start": self.began_at, "end": time.time(), "step": 1}
        return self._query("/api/v1/query_range", {"query": expression, **span})

    def _query(self, path: str, parameters: Mapping[str, Any]) -> list[Any]:
        answer = self._http.get(path, params=parameters).json()
        assert answer["status"] == "success", f"{parameters['query']}: {answer.get('error')}"
        return list(answer["data"]["result"])


def without_data(prometheus: Prometheus, panels: Sequence[Panel], variables: Mapping[str, str]) -> list[str]:
    """The panels of which a query has no answer."""
    empty = []
    for panel in panels:
        for query in panel.queries:
            expression = query.expression.replace("$__rate_interval", "30s")
            for name, value in variables.items():
                expression = expression.replace(f"${name}", value)
            if not (prometheus.ask if panel.rows else prometheus.since_the_start)(expression):
                empty.append(f"{panel.title}: {expression}")
    return empty


def test_prometheus_sees_the_work_and_a_pulled_cable_raises_an_alert(
    farm: Any, tmp_path: Path, tiny_bundle_path: Path
) -> None:
    promtool = program("promtool")
    stubborn = {"stop_probability": 0.9999}  # long enough for a scrape in between
    spec = tmp_path / "design.yaml"
    spec.write_text(
        json.dumps(
            {
                "name": "for the dashboards",
                "model": str(tiny_bundle_path),
                "dataset": {"builtin": "personal-facts", "limit": 1},
                "design": "ab",
                "methods": [
                    {"name": "forward", "settings": {**stubborn, "step_limit": 15}},
                    {"name": "mobiedit", "settings": {**stubborn, "step_limit": 8}},
                ],
                "repeats": 3,
                "devices": {"where": ['phone.model == "Pixel 8"']},
            }
        )
    )
    farm.up()
    paths = farm_paths(farm.home)
    target = json.loads(paths.running.read_text())["url"].removeprefix("http://")
    pixel, galaxy = (phone.address for phone in farm.phones.phones)
    with ExitStack() as stack:
        webhook = Webhook(stack)
        prometheus = Prometheus(tmp_path, stack, target, webhook.url)
        until(
            lambda: len(prometheus.ask("mobifarm_device_clock_hertz")) == 2, "both phones with their readings"
        )
        job_id = farm.submit(spec)
        farm.wait_done(job_id)
        until(lambda: prometheus.ask("mobifarm_noise_floor_ratio"), "the noise floors of the design")
        text = httpx.get(f"http://{target}/metrics", trust_env=False).text
        assert job_id not in text
        assert 'provenance="modelled"' in text
        assert 'provenance="measured"' not in text
        checked = subprocess.run(
            [promtool, "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

        farm.phones.control(GALAXY).unplug()
        alert = webhook.wait_for("MobiFarmPhoneLost", galaxy, "firing")
        assert galaxy in alert["annotations"]["summary"]
        assert "mobifarm devices" in alert["annotations"]["action"]
        left = prometheus.ask(f'{{device="{galaxy}",__name__=~"mobifarm_.*"}}')
        assert [series["metric"]["__name__"] for series in left] == ["mobifarm_device_up"]

        with FarmClient(paths) as client:
            sensors = client.get("/api/v1/live")["devices"][pixel]["reading"]["values"]
        variables = {"device": pixel, "method": ".*", "execution": ".*"}
        unread = {panel for panel, sensor in NEEDS_SENSOR.items() if sensor not in sensors}
        for name, board in BOARDS.items():
            panels = [panel for panel in board.panels() if panel.title not in unread]
            assert without_data(prometheus, panels, variables) == [], name

        farm.phones.control(GALAXY).plug()
        webhook.wait_for("MobiFarmPhoneLost", galaxy, "resolved")


@pytest.mark.parametrize(
    "command",
    [
        ("promtool", "check", "config", "prometheus.yml"),
        ("promtool", "test", "rules", "alert-tests.yml"),
        ("amtool", "check-config", "alertmanager.yml"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_shipped_files_pass_prometheus_own_tools(command: tuple[str, ...]) -> None:
    checked = subprocess.run(
        [program(command[0]), *command[1:]],
        cwd=RULES,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_written_configuration_passes_too(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mobifarm.controller.cli",
        "dashboards",
        "serve-config",
        str(tmp_path / "m"),
    ]
    command += ["--home", str(tmp_path), "--target", "https://farm.example:8443"]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    configuration = str(tmp_path / "m" / "prometheus" / "prometheus.yml")
    checked = subprocess.run(
        [program("promtool"), "check", "config", configuration],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_test_and_says_what_to_do() -> None:
    groups = yaml.safe_load((RULES / "alert-rules.yml").read_text())["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    tests = yaml.safe_load((RULES / "alert-tests.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(rules)
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(rules)
    for rule in rules.values():
        assert rule["annotations"].keys() == {"summary", "action"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
