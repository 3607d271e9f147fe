"""The Python client against a running farm: over TLS with tokens of three roles, and on this machine."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import mobifarm
from mobifarm.controller.client import FarmEvent
from mobifarm.controller.errors import UserError

Spec = Callable[[int, dict[str, Any]], Path]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "farm under test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = tmp_path / "farm.pem", tmp_path / "farm.key"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate_file, key_file


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_job_from_another_machine(farm: Any, spec: Spec, certificate: tuple[Path, Path]) -> None:
    trusted, key = certificate
    url = f"https://127.0.0.1:{(port := free_port())}"
    farm.up("--bind", f"127.0.0.1:{port}", "--certificate", str(trusted), "--key", str(key))
    secrets = {
        role: farm.run("tokens", "create", f"a-{role}", "--role", role).stdout.strip()
        for role in ("viewer", "submitter")
    }
    viewer = mobifarm.Client(url, secrets["viewer"], certificate=trusted)
    submitter = mobifarm.Client(url, secrets["submitter"], certificate=trusted)
    with viewer, submitter, mobifarm.Client(home=farm.home) as here:
        with pytest.raises(mobifarm.UserError, match=r"colour"):
            submitter.submit({"colour": "red"})
        with pytest.raises(UserError, match="--role submitter"):
            viewer.submit(spec(2, {}))
        job_id = submitter.submit(spec(2, {}))
        kinds: dict[str, int] = {}
        for event in viewer.events(job_id):
            assert isinstance(event, FarmEvent)
            kinds[event.kind] = kinds.get(event.kind, 0) + 1
            if kinds.get("attempt_finished") == 2:
                break
        assert kinds["job_submitted"] == 1
        assert kinds["lease_granted"] == 2
        job = viewer.wait(job_id, timeout_s=60)
        assert (job["state"], job["user"], job["done"]) == ("done", "a-submitter", 2)
        assert len(viewer.results(job_id)) == 2
        assert viewer.summary(job_id)["methods"]
        assert {device["state"] for device in viewer.devices()} == {"ready"}

        mine = here.submit(spec(2, {"stop_probability": 0.9999, "step_limit": 100_000}))
        with pytest.raises(TimeoutError, match="it goes on"):
            here.wait(mine, timeout_s=0)
        with pytest.raises(UserError, match="or an operator may cancel"):
            submitter.cancel(mine)
        here.cancel(mine)
        assert here.wait(mine, timeout_s=60)["state"] == "cancelled"
        assert [entry["state"] for entry in here.jobs()] == ["done", "cancelled"]

        assert farm.run("tokens", "revoke", "a-viewer").returncode == 0
        with pytest.raises(UserError, match="missing or wrong"):
            viewer.jobs()
    with pytest.raises(UserError, match="wants a token"):
        mobifarm.Client(url)
    with (
        mobifarm.Client(url, secrets["viewer"]) as stranger,
        pytest.raises(UserError, match=r"self.signed certificate\): .* give its file as certificate="),
    ):
        stranger.jobs()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bind", "127.0.0.1:0"], "in the clear"),
        (["--bind", "farm:8443", "--without-tls"], "IP:PORT"),
        (["--bind", "127.0.0.1", "--without-tls"], "IP:PORT"),
        (["--without-tls"], "belong to --bind"),
    ],
)
def test_the_api_is_not_opened_by_mistake(tmp_path: Path, options: list[str], words: str) -> None:
    from mobifarm.controller.farm.serve import public_address

    bind = options[1] if options[0] == "--bind" else None
    with pytest.raises(UserError, match=words):
        public_address(bind, None, None, "--without-tls" in options)


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    from mobifarm.controller.farm.serve import public_address

    file = tmp_path / "no.pem"
    file.write_text("nothing")
    with pytest.raises(UserError, match="cannot be used"):
        public_address("127.0.0.1:1", file, file, False)
    with pytest.raises(UserError, match="both"):
        public_address("127.0.0.1:1", file, None, False)
