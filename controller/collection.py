"""How often Python's collector of cyclic garbage looks at a process of the farm."""

from __future__ import annotations

import gc
from typing import Final

# Objects made since the last look, and looks of each generation per look of the next one.
THRESHOLDS: Final = (20_000, 20, 50)


def collect_rarely() -> None:
    """Let the collector of this process look less often, and not at what is there now.

    A farm's state is many objects that live long and hold no cycles. With Python's thresholds a look at all
    of it held the event loop for a quarter of a second, once in a few thousand trials.
    """
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
