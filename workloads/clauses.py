"""Conditions on a phone's attributes, such as ``npu.arch >= 73``: a strict little language, never evaluated.

    NAME == VALUE    NAME != VALUE    NAME in VALUE, VALUE    NAME not in VALUE, VALUE
    NAME >= VALUE    NAME <= VALUE    NAME > VALUE            NAME < VALUE          (numbers and versions)

Texts are compared without regard to case. A condition on what is not known of a phone does not hold.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

Value = str | float | tuple[str, ...]
Comparable = tuple[float | str, ...]


class Kind(StrEnum):
    """How an attribute's values are compared."""

    TEXT = "text"
    NUMBER = "number"
    VERSION = "version"  # 14 and 8.1.0: number by number
    SET = "set"  # of texts: == asks whether it is among them


ATTRIBUTES: Final[Mapping[str, Kind]] = {
    "device": Kind.TEXT,
    "serial": Kind.TEXT,
    "execution": Kind.TEXT,
    "host": Kind.TEXT,
    "tag": Kind.SET,
    "phone.manufacturer": Kind.TEXT,
    "phone.model": Kind.TEXT,
    "android.version": Kind.VERSION,
    "android.sdk": Kind.NUMBER,
    "abi": Kind.TEXT,
    "soc.manufacturer": Kind.TEXT,
    "soc.model": Kind.TEXT,
    "npu.arch": Kind.NUMBER,
    "ram.gib": Kind.NUMBER,
    "cpu.count": Kind.NUMBER,
}

_FORM: Final = re.compile(
    r"\s*(?P<name>[a-z][a-z0-9_.]*)\s*(?P<operator>==|!=|>=|<=|>|<|\bnot\s+in\b|\bin\b)(?![=<>!])\s*(?P<values>.*\S)\s*"
)
_NUMBER: Final = re.compile(r"\d{1,12}(\.\d{1,6})?")
_VERSION: Final = re.compile(r"\d{1,6}(\.\d{1,6}){0,5}")
_TEXT: Final = re.compile(r"""[^"',\s][^"',]*""")
_ORDERED: Final = frozenset({">=", "<=", ">", "<"})
CLAUSE_LIMIT: Final = 500  # characters


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition: ``values`` has one member unless the operator is ``in`` or ``not in``."""

    name: str
    operator: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {', '.join(self.values)}"

    def unmet(self, attributes: Mapping[str, Value]) -> str | None:
        """Why the condition does not hold of these attributes, in words; None where it holds."""
        actual = attributes.get(self.name)
        kind = ATTRIBUTES[self.name]
        if kind is Kind.SET:
            return self._unmet_by_set(actual if isinstance(actual, tuple) else ())
        if actual is None:
            return f"its {self.name} is not known (wanted {self.operator} {', '.join(self.values)})"
        if self._holds(kind, (actual,) if isinstance(actual, float) else _comparable(kind, str(actual))):
            return None
        shown = f"{actual:g}" if isinstance(actual, float) else str(actual)
        return f"its {self.name} is {shown}, wanted {self.operator} {', '.join(self.values)}"

    def _holds(self, kind: Kind, compared: Comparable) -> bool:
        wanted = [_comparable(kind, value) for value in self.values]
        match self.operator:
            case "==" | "in":
                return compared in wanted
            case "!=" | "not in":
                return compared not in wanted
            case ">=":
                return compared >= wanted[0]
            case "<=":
                return compared <= wanted[0]
            case ">":
                return compared > wanted[0]
            case _:
                return compared < wanted[0]

    def _unmet_by_set(self, actual: tuple[str, ...]) -> str | None:
        among = not {value.casefold() for value in self.values}.isdisjoint(each.casefold() for each in actual)
        wanted = self.operator in ("==", "in")
        if among is wanted:
            return None
        listed = ", ".join(self.values)
        return f"it has no {self.name} {listed}" if wanted else f"it has the {self.name} {listed}"


@lru_cache(maxsize=65_536)
def _comparable(kind: Kind, text: str) -> Comparable:
    match kind:
        case Kind.NUMBER:
            return (float(text),)
        case Kind.VERSION:
            numbers = [float(number) for number in re.findall(r"\d{1,6}", text)]
            while numbers and numbers[-1] == 0:  # 14 and 14.0 are the same
                numbers.pop()
            return tuple(numbers)
        case _:
            return (text.casefold(),)


@lru_cache(maxsize=4096)
def parse_clause(text: str) -> Clause:
    """Read one condition.

    Raises:
        ValueError: one sentence that names the condition and what is wrong with it.
    """
    if len(text) > CLAUSE_LIMIT:
        raise ValueError(f"a condition is longer than {CLAUSE_LIMIT} characters: split it")
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"the condition {text!r} cannot be read: write it like 'npu.arch >= 73'")
    name, operator = match["name"], " ".join(match["operator"].split())
    if name not in ATTRIBUTES:
        near = difflib.get_close_matches(name, ATTRIBUTES, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(ATTRIBUTES)}"
        raise ValueError(f"the condition {text!r} asks for {name}, which is no attribute of phones: {hint}")
    kind = ATTRIBUTES[name]
    if operator in _ORDERED and kind not in (Kind.NUMBER, Kind.VERSION):
        raise ValueError(f"the condition {text!r} orders a text: use ==, !=, in or not in with {name}")
    listed = operator in ("in", "not in")
    values = tuple(
        _unquoted(part.strip()) for part in (match["values"].split(",") if listed else [match["values"]])
    )
    form = {Kind.NUMBER: _NUMBER, Kind.VERSION: _VERSION}.get(kind, _TEXT)
    for value in values:
        if not form.fullmatch(value):
            wanted = {Kind.NUMBER: "a number", Kind.VERSION: "a version such as 14"}.get(kind, "a text")
            several = "" if listed or "," not in value else "; a list goes with in"
            raise ValueError(
                f"the condition {text!r} compares {name} with {value!r}, which is not {wanted}{several}"
            )
    return Clause(name, operator, values)


def _unquoted(value: str) -> str:
    for quote in "\"'":
        if len(value) >= 2 and value[0] == value[-1] == quote:
            return value[1:-1].strip()
    return value
