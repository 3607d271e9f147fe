"""What results tell of the accelerator that ran an edit, in a few words. Pure; the text is a phone's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_REASON_LIMIT: Final = 300


def operators(accelerator: Mapping[str, Any]) -> str:
    """How many of the loss graphs' operators ran there, of a passport's accelerator; "" on a processor."""
    details = accelerator.get("details") or {}
    of, there = details.get("operators"), details.get("operators_on_accelerator")
    return f"{there} of {of} operators" if isinstance(of, int) and isinstance(there, int) else ""


def why_not(accelerator: Mapping[str, Any]) -> str:
    """Why no neural processor ran graphs that the bundle has for one; "" where one did, or it has none."""
    details = accelerator.get("details") or {}
    reason = details.get("reason")
    asked = details.get("bundle_has_graphs", True)
    return reason[:_REASON_LIMIT] if isinstance(reason, str) and asked else ""


def in_words(accelerator: Mapping[str, Any]) -> str:
    """Its name with the share of operators, or with the reason why it is the processor; "" where unknown."""
    name = accelerator.get("name") or ""
    more = why_not(accelerator) or operators(accelerator)
    return f"{name} ({more})" if name and more else str(name)
