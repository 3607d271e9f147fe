"""Edit records from decoded JSON: MobiFarm's own form, CounterFact's two and KnowEdit's. Pure.

A file is taken whole or not at all: every malformed record is collected and reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mobifarm.agent.editor.types import EditRecord, Probe
from mobifarm.agent.errors import InputError
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.reader import Problem, Reader, kind_of

FORMAT_NAME: Final = "mobifarm-edit-records"
FORMAT_VERSION: Final = 1
REPORTED_PROBLEMS: Final = 20

_OWN_FIELDS: Final = (
    "record_id",
    "subject",
    "prompt",
    "target_new",
    "target_true",
    "paraphrases",
    "neighbours",
    "portability",
)


@dataclass(frozen=True, slots=True)
class _Raw:
    record_id: str
    subject: str
    prompt: str
    target_new: str
    target_true: str
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()


def _own(reader: Reader) -> _Raw:
    raw = _Raw(
        record_id=reader.text("record_id"),
        subject=reader.text("subject"),
        prompt=reader.text("prompt"),
        target_new=reader.text("target_new"),
        target_true=reader.optional_text("target_true"),
        paraphrases=reader.texts("paraphrases"),
        neighbours=reader.probes("neighbours"),
        portability=reader.probes("portability"),
    )
    reader.refuse_unknown(_OWN_FIELDS)
    return raw


def _counterfact(reader: Reader) -> _Raw:
    rewrite = reader.mapping("requested_rewrite")
    template, subject = rewrite.text("prompt"), rewrite.text("subject")
    if template and template.count("{}") != 1:
        rewrite.problem("prompt", f"is {template!r}: put {{}} once, where the subject stands")
    new, true = rewrite.mapping("target_new"), rewrite.mapping("target_true")
    target_new, target_true = new.text("str"), true.text("str")
    for name, inner in (("target_new", new), ("target_true", true)):
        rewrite.problems += [Problem(f"{name}.{p.field}", p.message) for p in inner.problems]
    reader.problems += [Problem(f"requested_rewrite.{p.field}", p.message) for p in rewrite.problems]
    return _Raw(
        record_id=_case_id(reader),
        subject=subject,
        prompt=template.replace("{}", subject),
        target_new=target_new,
        target_true=target_true,
        paraphrases=reader.texts("paraphrase_prompts"),
        neighbours=tuple(Probe(prompt, target_true) for prompt in reader.texts("neighborhood_prompts")),
    )


def _counterfact_flat(reader: Reader) -> _Raw:
    return _Raw(
        record_id=_case_id(reader),
        subject=reader.text("subject"),
        prompt=reader.text("prompt"),
        target_new=reader.text("target_new"),
        target_true=reader.text("ground_truth"),
        paraphrases=(reader.text("rephrase_prompt"),),
        neighbours=(Probe(reader.text("locality_prompt"), reader.text("locality_ground_truth")),),
    )


def _knowedit(reader: Reader) -> _Raw:
    target_new = reader.text("target_new")
    # Some records state what was true all along; there is nothing to compare with then.
    others = [answer for answer in reader.answers("ground_truth") if answer != target_new]
    rephrased = reader.optional_text("rephrase_prompt")
    return _Raw(
        record_id=_case_id(reader) if reader.has("case_id") else str(reader.index),
        subject=reader.text("subject"),
        prompt=reader.text("prompt"),
        target_new=target_new,
        target_true=others[0] if others else "",
        paraphrases=(rephrased,) if rephrased else (),
        neighbours=reader.answered("locality"),
        portability=reader.answered("portability"),
    )


def _case_id(reader: Reader) -> str:
    value = reader.get("case_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return reader.checked_text("case_id", value)
    if value is not None:
        reader.problem("case_id", f"is {kind_of(value)}: give a whole number")
    return ""


_FORMS: Final[Mapping[str, Callable[[Reader], _Raw]]] = {
    "mobifarm": _own,
    "counterfact": _counterfact,
    "counterfact-flat": _counterfact_flat,
    "knowedit": _knowedit,
}
FORMATS: Final = ("auto", *_FORMS)


def parse_records(document: Any, source: str, form: str = "auto") -> list[EditRecord]:
    """All records of a decoded JSON document, in its order.

    Args:
        document: MobiFarm's object with ``records``, or a list of records.
        source: the file's name, for messages.
        form: one of :data:`FORMATS`; ``auto`` tells the form from the first record.

    Raises:
        WorkloadInputError: one message with every malformed record (the first 20 problems in words).
    """
    items = _items(document, source)
    if form == "auto":
        form = _detect(items[0], source)
    read = _FORMS[form]
    records: list[EditRecord] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        record, found = _record(item, read, index)
        problems += [f"record {index}{_identified(item)}: {problem}" for problem in found]
        if record is None:
            continue
        if record.record_id in seen:
            problems.append(
                f"record {index}: record_id {record.record_id!r} is that of record {seen[record.record_id]} "
                "too: give each record its own"
            )
        seen.setdefault(record.record_id, index)
        records.append(record)
    if problems:
        raise WorkloadInputError(_report(f"{source} cannot be used (read as {form})", problems))
    return records


def record_from_mapping(values: Mapping[str, Any]) -> EditRecord:
    """One record in MobiFarm's own form.

    Raises:
        WorkloadInputError: listing every problem of the record.
    """
    record, problems = _record(values, _own)
    if record is None:
        raise WorkloadInputError(_report("the edit record cannot be used", [str(p) for p in problems]))
    return record


def record_to_mapping(record: EditRecord) -> dict[str, Any]:
    """The record in MobiFarm's own form, as plain JSON."""
    return {
        "record_id": record.record_id,
        "subject": record.subject,
        "prompt": record.prompt,
        "target_new": record.target_new,
        "target_true": record.target_true,
        "paraphrases": list(record.paraphrases),
        "neighbours": [{"prompt": probe.prompt, "answer": probe.answer} for probe in record.neighbours],
        "portability": [{"prompt": probe.prompt, "answer": probe.answer} for probe in record.portability],
    }


def _record(
    item: Any, read: Callable[[Reader], _Raw], index: int = 0
) -> tuple[EditRecord | None, list[Problem]]:
    if not isinstance(item, Mapping):
        return None, [Problem("it", f"is {kind_of(item)}: give an object")]
    reader = Reader(item, index)
    raw = read(reader)
    if not reader.problems and raw.target_new == raw.target_true:
        reader.problem("target_new", "equals target_true: an edit must change the answer")
    if reader.problems:
        return None, reader.problems
    try:
        record = EditRecord(
            raw.record_id,
            raw.subject,
            raw.prompt,
            raw.target_new,
            raw.target_true,
            raw.paraphrases,
            raw.neighbours,
            raw.portability,
        )
    except InputError as error:
        return None, [Problem("prompt:", str(error))]
    return record, []


def _items(document: Any, source: str) -> list[Any]:
    if isinstance(document, Mapping):
        name, version = document.get("format"), document.get("version")
        if name != FORMAT_NAME or version != FORMAT_VERSION:
            raise WorkloadInputError(
                f"{source} is an object without the header of an edit record file: give it "
                f'"format": "{FORMAT_NAME}", "version": {FORMAT_VERSION} and "records", or use a list'
            )
        document = document.get("records")
    if not isinstance(document, list):
        raise WorkloadInputError(f"{source} holds {kind_of(document)} where the list of records should be")
    if not document:
        raise WorkloadInputError(f"{source} holds no records: add some")
    return document


def _detect(first: Any, source: str) -> str:
    if isinstance(first, Mapping):
        if "requested_rewrite" in first:
            return "counterfact"
        if isinstance(first.get("locality"), Mapping) or isinstance(first.get("portability"), Mapping):
            return "knowedit"
        if "locality_prompt" in first or "ground_truth" in first:
            return "counterfact-flat"
        if "record_id" in first or "target_true" in first:
            return "mobifarm"
    raise WorkloadInputError(
        f"{source}: record 0 has none of the known forms; set the data set's format to one of "
        f"{', '.join(_FORMS)} to learn which fields it lacks (docs/datasets.md describes them)"
    )


def _identified(item: Any) -> str:
    if isinstance(item, Mapping):
        for name in ("record_id", "case_id"):
            if isinstance(item.get(name), str | int):
                return f" ({name} {str(item[name])[:60]})"
    return ""


def _report(headline: str, problems: list[str]) -> str:
    shown = problems[:REPORTED_PROBLEMS]
    rest = len(problems) - len(shown)
    more = [f"… and {rest} more"] if rest else []
    number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n  ".join([f"{headline}, {number}:", *shown, *more])
