"""The report as one HTML file: no scripts, nothing from elsewhere, the same bytes each time. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final
from xml.etree.ElementTree import Element

import yaml

from mobifarm.workloads.comparability import Comparability, Difference, Judgement, Verdict
from mobifarm.workloads.models.names import build_command
from mobifarm.workloads.report import evidence, phones, sections
from mobifarm.workloads.report.cells import Cell, Column, grouped, listing, table
from mobifarm.workloads.report.contents import JobRecord, places, records_hash
from mobifarm.workloads.report.figures import figures
from mobifarm.workloads.report.markup import document, element, prose

STYLE: Final = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)


def render(record: JobRecord, *, version: str, compared: Comparability | None = None) -> str:
    """The whole page.

    Args:
        version: of the MobiFarm that writes it.
        compared: of this job, A, with another one, B.
    """
    found = places(record)
    head = [
        # Served as a file, this is the only one to say it.
        element("meta", http_equiv="Content-Security-Policy", content=CONTENT_SECURITY_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{record.job.name} · {record.job.job_id}"),
    ]
    body = [
        *sections.heading(record, version),
        *sections.question(record),
        *sections.design(record),
        *sections.results(record, found),
        *evidence.comparison(record),
        *(_compared(compared) if compared else ()),
        *_figures(record, found),
        *phones.phones(record),
        *evidence.measured(record),
        *evidence.failed(record),
        *_notes(record),
        *reproduction(record, version),
        *evidence.edits(record),
        element("footer", f"MobiFarm {version} · {record.job.job_id} · records {records_hash(record)[:12]}"),
    ]
    return document(head, [element("main", *body)], STYLE)


def _figures(record: JobRecord, found: Any) -> list[Element]:
    drawn = figures(record, found)
    return [element("h2", "Figures"), *drawn] if drawn else []


def _notes(record: JobRecord) -> list[Element]:
    notes = element("ol", *(element("li", *prose(note)) for note in record.summary.footnotes))
    return [element("h2", "Notes"), notes]


def reproduction(record: JobRecord, version: str) -> list[Element]:
    """The commands, the spec and the hashes that make the same plan again."""
    spec = record.spec
    payloads = [trial.payload for trial in record.trials]
    bundles = sorted({str(payload["bundle_hash"]) for payload in payloads})
    settings = {payload["method_label"]: payload for payload in payloads}
    stored = {trial.payload["method_label"]: trial.stored for trial in record.trials if trial.stored}
    hashes = [
        (
            f"settings of {label}",
            str(((stored.get(label) or {}).get("passport") or {}).get("settings_hash") or "not known"),
        )
        for label in settings
    ]
    model = str(spec.get("model", "MODEL"))
    source = (spec.get("dataset") or {}).get("file")
    beside = f"  # with {source} beside it, as the spec names it" if source else ""
    commands = "\n".join(
        [
            f". .venv/bin/activate  # of MobiFarm {version}, set up as its README says",
            build_command(model)
            if "/" not in model
            else "# the bundle in the folder that the spec names must have the hash below",
            "mobifarm up  # in a terminal of its own",
            f"mobifarm run spec.yaml{beside}",
        ]
    )
    return [
        element("h2", "To reproduce"),
        element("p", "Save the spec as ", element("code", "spec.yaml"), "; then:"),
        element("pre", element("code", commands)),
        element("pre", element("code", spec_text(spec))),
        listing(
            [
                *((("model bundle, SHA-256", element("code", each))) for each in bundles),
                ("records, SHA-256", element("code", records_hash(record))),
                *((name, element("code", value)) for name, value in hashes),
                ("seed", element("code", str(spec.get("seed", 0)))),
                ("MobiFarm", element("code", version)),
            ]
        ),
        element(
            "p",
            "The same spec, records, bundle and seed give the same plan, each edit with the same seed. The "
            "records' hash is over their canonical JSON (keys in order, no spaces) in the order of the plan. "
            "Seconds come out the same only on the same phone in the same condition.",
            class_="note",
        ),
    ]


def spec_text(spec: Mapping[str, Any]) -> str:
    """The spec as YAML that reads back as the same spec."""
    return yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True, width=100)


def _compared(found: Comparability) -> list[Element]:
    """What may be said of the other job against this one."""
    made = [
        element("h2", f"Against {found.b}"),
        element("p", f"A is {found.a}, B is {found.b}; {found.pairs} edits have a result in both."),
    ]
    for judgement in found.judgements:
        made += _judgement(judgement)
    return made


def _judgement(judgement: Judgement) -> list[Element]:
    no = judgement.verdict is Verdict.NO
    words = judgement.verdict.value
    if judgement.verdict is Verdict.TREATMENT:
        words += f": {judgement.treatments[0]}; all else is the same"
    made = [
        element("h3", judgement.family.value.capitalize()),
        element(
            "p",
            words[0].upper() + words[1:] + (" because" if no else "."),
            class_=f"verdict {'no' if no else 'yes'}",
        ),
    ]
    if no:
        return [*made, element("ul", *(element("li", problem) for problem in judgement.mismatches))]
    rows: list[list[Cell]] = []
    for each in judgement.differences:
        unit = "%" if each.relative else "pp"
        bounds = (
            None
            if each.low is None or each.high is None
            else f"[{100 * each.low:+.1f}, {100 * each.high:+.1f}]"
        )
        means = [_amount(each, value) for value in (each.a, each.b)]
        rows.append(
            [
                each.label,
                each.measure,
                str(each.pairs),
                *means,
                f"{100 * each.difference:+.1f} {unit}",
                bounds,
                each.conclusion,
            ]
        )
    columns = [
        Column("Method"),
        Column("Measure"),
        Column("Pairs", "number"),
        Column("A", "number", "Mean over the pairs"),
        Column("B", "number", "Mean over the pairs"),
        Column("B against A", "number"),
        Column("95 % interval"),
        Column("B is"),
    ]
    caption = (
        "Paired differences: ratios of geometric means in %, differences of shares in percentage points "
        "(pp); intervals by bootstrap over records."
    )
    return [*made, table(columns, rows, caption)]


def _amount(of: Difference, value: float) -> str:
    if not of.relative:
        return f"{100 * value:.1f} %"
    if "memory" in of.measure:
        return f"{value / 2**20:.1f} MiB"
    return grouped(value) if value >= 1000 else f"{value:.4g}"
