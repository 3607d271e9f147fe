"""Where downloaded and built files are kept between runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mobifarm.workloads.errors import WorkloadInputError


def expanded(path: str) -> Path:
    """The path with ``~`` and ``~user`` replaced by the home folder.

    Raises:
        WorkloadInputError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise WorkloadInputError(f"{path!r} names the home folder of nobody: write the whole path") from error


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's cache: ``$MOBIFARM_CACHE`` or ``~/.cache/mobifarm``. It may not exist yet."""
    configured = environment.get("MOBIFARM_CACHE")
    return expanded(configured) if configured else Path.home() / ".cache" / "mobifarm"


def bundles_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Built model bundles, one folder per name."""
    return cache_directory(environment) / "bundles"


def fetched_bundles_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Bundles that a host had from its farm, one folder per hash."""
    return cache_directory(environment) / "fetched-bundles"
