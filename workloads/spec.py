"""The evaluation spec: what to edit into which model, with which methods, on which phones.

It is data, never code: YAML read with the safe loader, checked whole; every problem is reported at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from mobifarm.agent.errors import InputError
from mobifarm.workloads.clauses import parse_clause
from mobifarm.workloads.errors import WorkloadInputError

SIZE_LIMIT_BYTES: Final = 256 * 2**10
# Seeds stay below 2**53 so that every JSON reader keeps them exactly.
SEED_LIMIT: Final = 2**53 - 1

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
LongText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
Name = Annotated[
    str, StringConstraints(strip_whitespace=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+ -]*$", max_length=80)
]


# YAML reads a bare `no` as false.
Keep = Annotated[
    Literal["no", "together", "in_sequence"], BeforeValidator(lambda given: "no" if given is False else given)
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DatasetSpec(_Part):
    """A built-in set or a file, and which records: by id, then from ``offset`` on, at most ``limit``."""

    builtin: Literal["personal-facts"] | None = None
    file: Text | None = None
    format: Literal["auto", "mobifarm", "counterfact", "counterfact-flat", "knowedit"] = "auto"
    record_ids: Annotated[list[Text], Field(min_length=1)] | None = None
    offset: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.builtin is None) == (self.file is None):
            raise ValueError("give exactly one of builtin and file")
        if self.builtin is not None and self.format not in ("auto", "mobifarm"):
            raise ValueError("a builtin data set has its own format: leave format away")
        if self.record_ids is not None and len(set(self.record_ids)) != len(self.record_ids):
            raise ValueError("record_ids lists a record twice: list each once")
        return self


class MethodSpec(_Part):
    """An editing method with the settings that differ from its defaults, and the name it has in tables."""

    name: Text
    settings: dict[str, int | float | str | bool] = Field(default_factory=dict)
    label: Name | None = None

    @property
    def title(self) -> str:
        return self.label or self.name

    def complete_settings(self) -> dict[str, Any]:
        """Every setting of the method with its value.

        Raises:
            InputError: the method or a setting is unknown or does not fit.
        """
        # The editor is heavier than the rest of a spec; who only needs the classes does not pay for it.
        from mobifarm.workloads.methods import complete_settings

        return complete_settings(self.name, self.settings)

    @model_validator(mode="after")
    def _method_accepts_settings(self) -> Self:
        try:
            self.complete_settings()
        except InputError as error:
            raise ValueError(str(error)) from error
        return self


def _readable_clause(text: str) -> str:
    parse_clause(text)
    return text


class DevicesSpec(_Part):
    """Which phones may take part, all conditions hold together, and how the trials are placed on them.

    ``where`` lists conditions on attributes such as ``npu.arch >= 73``, ``count`` bounds how many phones work
    at the same time, ``properties`` are Android properties. ``placement``: ``same_phone`` keeps all trials on
    one phone, ``same_phone_per_record`` those of each record, ``spread`` shares them out evenly.
    """

    execution: Literal["any", "phone", "virtual", "qemu_arm64"] = "any"
    count: Annotated[int, Field(ge=1)] | None = None
    serials: list[Text] = Field(default_factory=list)
    properties: dict[Text, str] = Field(default_factory=dict)
    where: list[Annotated[Text, AfterValidator(_readable_clause)]] = Field(default_factory=list)
    placement: Literal["any", "same_phone", "same_phone_per_record", "spread"] = "any"


class GatesSpec(_Part):
    """What must hold of a phone at the start of each trial; null asks for nothing.

    ``charging``: true or false, whether the battery must be charging or must not be. ``unknown``: what a
    sensor that tells nothing means. The defaults keep a phone from overheating, running empty or full.
    """

    max_temperature_celsius: Annotated[float, Field(ge=0, le=100)] | None = 45.0
    min_battery_percent: Annotated[float, Field(ge=0, le=100)] | None = 15.0
    charging: bool | None = None
    screen_off: bool = False
    min_free_storage_mib: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = 200.0
    unknown: Literal["allow", "refuse"] = "allow"


class EvaluationSpec(_Part):
    """One evaluation: every record with every method, ``repeats`` times.

    ``attempts`` is how often a trial is tried when phones or links fail; a failed edit is a result and is
    never tried again. ``keep``: each phone keeps the edits that it makes, found on the unedited model or on
    the model with those that it kept before. ``telemetry`` off reads no sensor during an edit. A phone lies
    still for ``idle_window_s`` before an edit where it has not been seen idle for as long in the last half
    hour. ``design`` compares two methods (or one with itself) in blocks on one phone, see
    :mod:`mobifarm.workloads.designs`; a fact has ``repeats`` blocks.
    """

    name: Name
    description: LongText | None = None
    model: Text
    dataset: DatasetSpec
    methods: Annotated[list[MethodSpec], Field(min_length=1, max_length=100)]
    devices: DevicesSpec = DevicesSpec()
    gates: GatesSpec = GatesSpec()
    repeats: Annotated[int, Field(ge=1, le=1000)] = 1
    seed: Annotated[int, Field(ge=0, le=SEED_LIMIT)] = 0
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    keep: Keep = "no"
    telemetry: bool = True
    idle_window_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    design: Literal["ab", "aa"] | None = None

    @model_validator(mode="after")
    def _titles_differ(self) -> Self:
        titles = [method.title for method in self.methods]
        doubled = sorted({title for title in titles if titles.count(title) > 1})
        if doubled:
            raise ValueError(f"two methods are called {', '.join(doubled)}: give each its own label")
        return self

    @model_validator(mode="after")
    def _design_has_its_methods(self) -> Self:
        if self.design is None:
            return self
        from mobifarm.workloads.methods import runs_on_computer

        wanted = {"ab": 2, "aa": 1}[self.design]
        if len(self.methods) != wanted:
            number = "two methods, A and B" if wanted == 2 else "one method, which runs against itself"
            raise ValueError(
                f"design is {self.design!r}, which compares {number}: {len(self.methods)} are given"
            )
        if len({runs_on_computer(method.name) for method in self.methods}) > 1:
            raise ValueError(
                "a design compares on one phone, and one of these methods runs on the farm's computer: "
                "leave design away"
            )
        if self.keep != "no":
            raise ValueError(
                "a design makes each edit several times, so nothing can be kept: leave keep away"
            )
        return self

    @model_validator(mode="after")
    def _every_fact_is_kept_once(self) -> Self:
        if self.keep != "no" and (self.repeats > 1 or len(self.methods) > 1):
            raise ValueError(
                f"keep is {self.keep!r}, and a phone keeps one edit of a fact: give one method and repeats: 1"
            )
        from mobifarm.workloads.methods import runs_on_computer

        method = self.methods[0].name
        if self.keep != "no" and runs_on_computer(method):
            raise ValueError(
                f"keep is {self.keep!r}, and {method} runs on the farm's computer, which keeps no edits: "
                "give a method of the phones"
            )
        return self


def load_spec(path: Path) -> EvaluationSpec:
    """Read and check a spec file.

    Raises:
        WorkloadInputError: one message that lists every problem.
    """
    return parse_spec(read_spec(path), str(path))


def read_spec(path: Path) -> dict[str, Any]:
    """The file's mapping as it stands, not checked beyond being a YAML mapping without doubled keys.

    Raises:
        WorkloadInputError: it cannot be read as one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        raise WorkloadInputError(
            f"{path} cannot be read ({error.strerror}): name a spec that exists"
        ) from error
    if len(data) > SIZE_LIMIT_BYTES:
        raise WorkloadInputError(
            f"{path} is larger than {SIZE_LIMIT_BYTES // 2**10} KiB, too large for a spec: put the "
            "data into a file of its own and name it as dataset.file"
        )
    try:
        text = data.decode("utf-8")
        _refuse_ambiguity(text)
        document = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise WorkloadInputError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise WorkloadInputError(f"{path} is not YAML: {_yaml_words(error)}") from error
    # A tag that does not fit its text, such as `!!bool x`, ends in any of the last three.
    except (RecursionError, ValueError, LookupError, AttributeError) as error:
        raise WorkloadInputError(f"{path} cannot be read as YAML ({error}): mend it there") from error
    if not isinstance(document, dict):
        raise WorkloadInputError(f"{path} holds no settings: write `name: …`, `model: …` and so on")
    return document


def parse_spec(document: Mapping[str, Any], source: str = "the evaluation spec") -> EvaluationSpec:
    """Check a spec that is a mapping already.

    Raises:
        WorkloadInputError: one message that lists every problem.
    """
    try:
        return EvaluationSpec.model_validate(dict(document))
    except ValidationError as error:
        problems = [_words(detail) for detail in error.errors(include_url=False)]
        number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise WorkloadInputError("\n  ".join([f"{source} has {number}:", *problems])) from error


_KNOWN_FIELDS: Final[Mapping[str, type[BaseModel]]] = {
    "": EvaluationSpec,
    "dataset": DatasetSpec,
    "methods": MethodSpec,
    "devices": DevicesSpec,
    "gates": GatesSpec,
}


def _words(detail: ErrorDetails) -> str:
    where = [part for part in detail["loc"] if part != "[key]"]
    place = ", ".join(f"entry {part + 1}" if isinstance(part, int) else part for part in where)
    return f"{place}: {_message(detail)}" if place else _message(detail)


def _message(detail: ErrorDetails) -> str:
    given = detail["input"]
    match detail["type"]:
        case "missing":
            return "is missing: add it"
        case "extra_forbidden":
            return _unknown(detail)
        case "value_error":
            return str(detail["ctx"]["error"])
        case "string_type" if isinstance(given, bool | int | float):
            return f"is read as {given!r}: put it in quotes to make it a text"
        case "literal_error":
            return f"is {given!r}: choose {detail['ctx']['expected']}"
        case "string_pattern_mismatch":
            return f"is {given!r}: use letters, digits, spaces and . _ + - only"
        case _:
            message = detail["msg"]
            return f"is {_short(given)}: {message[0].lower()}{message[1:]}"


def _unknown(detail: ErrorDetails) -> str:
    *parents, name = detail["loc"]
    section = str(parents[0]) if parents else ""
    known = list(_KNOWN_FIELDS[section].model_fields) if section in _KNOWN_FIELDS else []
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"the names here are {', '.join(known)}"
    return f"is not a known name: {hint}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _refuse_ambiguity(text: str) -> None:
    """Refuse what YAML reads silently in a surprising way: doubled keys, and references between parts."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    seen: set[int] = set()
    waiting = [] if root is None else [root]
    while waiting:
        node = waiting.pop()
        line = node.start_mark.line + 1
        if id(node) in seen:
            raise yaml.YAMLError(f"line {line}: references (& and *) are not supported, write the part out")
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            doubled = sorted({key for key in keys if keys.count(key) > 1})
            if doubled:
                raise yaml.YAMLError(f"line {line}: {', '.join(doubled)} is given twice, keep one")
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _yaml_words(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())
