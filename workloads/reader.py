"""Reads the fields of one decoded JSON record and keeps every problem. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mobifarm.agent.editor.types import Probe

TEXT_LIMIT: Final = 4000
PROBE_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a record; ``field`` may be a path such as ``neighbours[2].answer``."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field} {self.message}"


class Reader:
    """Reads the fields of one record and keeps every problem instead of stopping at the first."""

    def __init__(self, values: Mapping[str, Any], index: int = 0) -> None:
        self._values = values
        self.index = index
        self.problems: list[Problem] = []

    def problem(self, field: str, message: str) -> None:
        self.problems.append(Problem(field, message))

    def has(self, field: str) -> bool:
        return field in self._values

    def get(self, field: str) -> Any:
        if field not in self._values:
            self.problem(field, "is missing: add it")
            return None
        return self._values[field]

    def mapping(self, field: str) -> Reader:
        value = self.get(field)
        if value is not None and not isinstance(value, Mapping):
            self.problem(field, f"is {kind_of(value)}: give an object")
        return Reader(value if isinstance(value, Mapping) else {})

    def text(self, field: str) -> str:
        return self.checked_text(field, self.get(field)) if field in self._values else self.get(field) or ""

    def optional_text(self, field: str) -> str:
        """ "" where the field is missing or empty."""
        value = self._values.get(field, "")
        return "" if value == "" else self.checked_text(field, value)

    def checked_text(self, field: str, value: Any) -> str:
        if not isinstance(value, str):
            self.problem(field, f"is {kind_of(value)}: give a text")
            return ""
        stripped = value.strip()
        if not stripped:
            self.problem(field, "is empty: give it some text")
        elif len(stripped) > TEXT_LIMIT:
            self.problem(field, f"has {len(stripped)} characters: give at most {TEXT_LIMIT}")
        elif not stripped.isascii() and not _encodable(stripped):
            self.problem(field, "holds half of a surrogate pair: save the file as proper UTF-8")
        return stripped

    def items(self, field: str) -> list[Any]:
        value = self._values.get(field, [])
        if not isinstance(value, list):
            self.problem(field, f"is {kind_of(value)}: give a list")
            return []
        if len(value) > PROBE_LIMIT:
            self.problem(field, f"has {len(value)} entries: give at most {PROBE_LIMIT}")
            return []
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        return tuple(self.checked_text(f"{field}[{i}]", item) for i, item in enumerate(self.items(field)))

    def answered(self, field: str) -> tuple[Probe, ...]:
        """KnowEdit: an object of lists of prompts with their answers; which lists there are varies."""
        kinds = self._values.get(field)
        if kinds is None:
            return ()
        if not isinstance(kinds, Mapping):
            self.problem(field, f"is {kind_of(kinds)}: give an object of lists")
            return ()
        inner = Reader(kinds)
        probes = []
        for kind in kinds:
            for i, item in enumerate(inner.items(kind)):
                if not isinstance(item, Mapping):
                    inner.problem(
                        f"{kind}[{i}]", f"is {kind_of(item)}: give an object with prompt and ground_truth"
                    )
                    continue
                asked = Reader(item)
                if not asked.has("ground_truth"):
                    asked.problem("ground_truth", "is missing: add it")
                # An empty list says that nobody knows the answer; there is nothing to score then.
                prompt, answers = asked.text("prompt"), asked.answers("ground_truth")
                probes += [Probe(prompt, answer) for answer in answers[:1]]
                inner.problems += [Problem(f"{kind}[{i}].{p.field}", p.message) for p in asked.problems]
        self.problems += [Problem(f"{field}.{p.field}", p.message) for p in inner.problems]
        return tuple(probes)

    def answers(self, field: str) -> list[str]:
        """KnowEdit: one text, a list of them, or a list of lists of aliases; nothing where it is missing."""
        found: list[str] = []
        waiting = [self._values.get(field, [])]
        while waiting:
            value = waiting.pop(0)
            if isinstance(value, list):
                waiting[:0] = value
            else:
                found.append(self.checked_text(field, value))
        return found

    def probes(self, field: str) -> tuple[Probe, ...]:
        return tuple(self._probe(f"{field}[{i}]", item) for i, item in enumerate(self.items(field)))

    def _probe(self, field: str, value: Any) -> Probe:
        if not isinstance(value, Mapping):
            self.problem(field, f"is {kind_of(value)}: give an object with prompt and answer")
            return Probe("", "")
        inner = Reader(value)
        probe = Probe(inner.text("prompt"), inner.text("answer"))
        inner.refuse_unknown(("prompt", "answer"))
        self.problems += [Problem(f"{field}.{problem.field}", problem.message) for problem in inner.problems]
        return probe

    def refuse_unknown(self, known: tuple[str, ...]) -> None:
        for name in self._values:
            if name not in known:
                self.problem(str(name)[:60], f"is not a known field: the fields are {', '.join(known)}")


def kind_of(value: Any) -> str:
    """What a decoded JSON value is, in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return f"the number {value}"
        case str():
            return "a text"
        case list():
            return "a list"
        case Mapping():
            return "an object"
        case _:
            return f"a {type(value).__name__}"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
