"""Text of somebody else, made fit for a terminal. Pure."""

from __future__ import annotations

import re
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """The text with � for what a terminal would obey: control characters other than tab and line feed."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
