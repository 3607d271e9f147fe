"""All methods that an evaluation may name: those of phones, and the baselines that run on the computer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from mobifarm.agent.editor import methods as phone
from mobifarm.agent.errors import InputError
from mobifarm.workloads.baselines.settings import BASELINE_NAMES, baseline_settings
from mobifarm.workloads.errors import WorkloadInputError

METHOD_NAMES: tuple[str, ...] = (*phone.METHOD_NAMES, *BASELINE_NAMES)


def runs_on_computer(method: str) -> bool:
    """Whether it is a baseline: torch on the farm's computer, never on a phone."""
    return method in BASELINE_NAMES


def require_torch() -> None:
    """Make sure that this computer can run the baselines.

    Raises:
        WorkloadInputError: it has no torch.
    """
    if find_spec("torch") is None:
        raise WorkloadInputError(
            f"{', '.join(BASELINE_NAMES)} run in torch, which is not installed on this computer: "
            "pip install 'mobifarm[models]'"
        )


def complete_settings(method: str, settings: Mapping[str, object]) -> dict[str, Any]:
    """Every setting of a method with its value.

    Args:
        method: one of ``METHOD_NAMES``.
        settings: those that differ from the method's defaults.

    Raises:
        InputError: the method is unknown, or the message lists every unknown name and every bad value.
    """
    if method in phone.METHOD_NAMES:
        return dict(phone.validate_settings(method, settings))
    for name in BASELINE_NAMES:
        if method == name:
            return asdict(baseline_settings(name, settings))
    raise InputError(
        f"{method!r} is no editing method: choose {', '.join(phone.METHOD_NAMES)} (on phones) or "
        f"{', '.join(BASELINE_NAMES)} (on the computer)"
    )
