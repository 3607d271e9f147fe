"""Where downloaded and built files are kept between runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's cache: ``$MOBIFARM_CACHE`` or ``~/.cache/mobifarm``. It may not exist yet."""
    configured = environment.get("MOBIFARM_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "mobifarm"


def bundles_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Built model bundles, one folder per name."""
    return cache_directory(environment) / "bundles"


def fetched_bundles_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Bundles that a host had from its farm, one folder per hash."""
    return cache_directory(environment) / "fetched-bundles"
