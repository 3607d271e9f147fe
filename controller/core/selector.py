"""Which phones a job accepts, and why a phone is not one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from mobifarm.workloads.clauses import Clause, parse_clause

if TYPE_CHECKING:
    from mobifarm.controller.core.state import Device

COMPUTER: Final = "computer"
"""The farm's own computer, which does what no phone can: its address, its place and its kind of execution."""


@dataclass(frozen=True, slots=True)
class DeviceSelector:
    """Conditions on a phone, all of which must hold; an empty selector accepts every phone.

    They do not concern the computer: what it does is a matter of the methods alone.

    ``execution`` is ``phone``, ``qemu_arm64`` or ``virtual``; ``serials`` lists the accepted serial numbers;
    ``properties`` maps names of Android properties (``ro.soc.model``) to the values they must have; ``count``
    bounds how many phones work for the job at the same time. ``where`` holds conditions on attributes, see
    :mod:`mobifarm.workloads.clauses`.

    ``placement``: ``spread`` gives every accepted phone as many trials as the others.

    Raises:
        ValueError: a condition in ``where`` cannot be read.
    """

    execution: str | None = None
    serials: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    count: int | None = None
    where: tuple[str, ...] = ()
    placement: Literal["any", "spread"] = "any"

    def __post_init__(self) -> None:
        self.clauses()

    def clauses(self) -> list[Clause]:
        return [parse_clause(text) for text in self.where]

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal where two selectors accept the same phones."""
        return (self.execution, self.serials, tuple(sorted(self.properties.items())), self.where)

    def mismatches(self, device: Device) -> list[str]:
        """Why this phone is not accepted, one clause per unmet condition; empty where it is accepted."""
        if device.identity is None:
            return ["it has not been ready yet, so nothing is known about it"]
        if device.execution == COMPUTER:
            return []
        reasons = []
        if self.execution is not None and device.execution != self.execution:
            reasons.append(f"its execution is {device.execution}, not {self.execution}")
        if self.serials and device.identity.serial not in self.serials:
            reasons.append(f"its serial {device.identity.serial} is not among {', '.join(self.serials)}")
        for name, wanted in self.properties.items():
            actual = device.properties.get(name)
            if actual is None:
                reasons.append(f"it has no property {name} (wanted {wanted})")
            elif actual != wanted:
                reasons.append(f"its {name} is {actual}, not {wanted}")
        unmet = (clause.unmet(device.attributes) for clause in self.clauses())
        return reasons + [reason for reason in unmet if reason is not None]
