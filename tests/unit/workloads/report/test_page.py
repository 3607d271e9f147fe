"""The report: what stands in it, that it stands alone, and that nobody's text becomes part of the page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mobifarm.v1 import agent_pb2 as pb
from mobifarm.workloads.comparability import compare_jobs
from mobifarm.workloads.compared_edits import edits_of
from mobifarm.workloads.exports import to_csv
from mobifarm.workloads.messages import result_to_mapping
from mobifarm.workloads.report.contents import JobRecord, energies, failures, places
from mobifarm.workloads.report.page import CONTENT_SECURITY_POLICY, STYLE, render
from mobifarm.workloads.summary import TrialRecord, summarise

SPEC: dict[str, Any] = {
    "name": "which is faster",
    "description": "Is B faster?",
    "model": "tiny",
    "dataset": {"builtin": "personal-facts", "limit": 3},
    "methods": [{"name": "forward"}],
    "seed": 5,
}
VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass(frozen=True)
class Job:
    job_id: str = "job-1"
    name: str = "which is faster"
    user: str = "ann"
    state: str = "done"
    submitted_at: float = 1_000_000.0
    finished_at: float | None = 1_000_060.0
    trials: int = 4
    ended: int = 4


@dataclass(frozen=True)
class Attempt:
    trial_id: str
    attempt_id: str
    label: str
    device_id: str = "tcp:1"
    serial: str = "S1"
    execution: str = "virtual"
    state: str = "done"
    granted_at: float = 10.0
    ended_at: float | None = 12.5
    reason: str = ""


def scored(kind: str, before: float, after: float) -> dict[str, Any]:
    def answer(value: float) -> dict[str, Any]:
        return {"log_probability": value, "tokens": 1, "tokens_argmax": 1}

    return {
        "kind": kind,
        "wanted_before": answer(before),
        "wanted_after": answer(after),
        "other_before": answer(-1.0),
        "other_after": answer(-1.0),
    }


def trial(number: int, *, text: str = "", execution: str = "virtual", **energy: Any) -> TrialRecord:
    """One edit with a passport; ``text`` is put wherever a phone or a data set may say something."""
    payload = {
        "bundle_hash": "ab" * 32,
        "method": "forward",
        "method_label": "forward",
        "settings": {"directions": 8, "prepared": text or "auto"},
        "seed": number,
        "record": {
            "record_id": f"{text}r{number}",
            "subject": text,
            "target_true": "x",
            "paraphrases": ["p"],
        },
        "repeat": 0,
    }
    reading = {"value": 20.0 + number, "unit": "degC"}
    passport = {
        "phone": {
            "serial": f"{text}S{number % 2}",
            "build_fingerprint": text or "google/shiba:15",
            "model": text or "Pixel 8",
            "manufacturer": text or "Google",
            "soc": text or "Tensor G3",
            "android_release": text or "15",
        },
        "measurement_epoch": 1,
        "host": text or "bench",
        "execution": execution,
        "agent_version": text or "0.1.0",
        "bundle_hash": "ab" * 32,
        "settings_hash": text or "c" * 64,
        "accelerator": {"name": text or "cpu", "nodes_by_provider": None, "reason": text or "no trace"},
        "memory": {"peak_rss_bytes": 10**8, "since_start_of_attempt": True, "reason": None},
        "temperatures": {
            "first": {text or "battery/temperature": reading},
            "last": {text or "battery/temperature": reading},
            "provenance": "modelled",
        },
        "clocks": {"first": None, "last": None, "reason": text or "no clock sensor is readable"},
        "charge_state": {"first": {"battery/charging": {"value": 1.0}, "battery/capacity": {"value": 0.8}}},
        "telemetry": {"samples": 5, "gaps": 0},
        "energy": energy or {"joules": None, "reason": text or "not a phone: there is no energy to measure"},
    }
    result = {
        "status": "step_limit" if number == 2 else "converged",
        "message": text,
        "scores": [
            scored("efficacy", -5, -5 if number == 2 else -0.1),
            scored("paraphrase", -5, -0.1),
            scored("neighbourhood", -0.1, -0.1),
        ],
        "cost": {"edit_s": 1.0 + number, "loss_evaluations": 100 * number, "peak_rss_bytes": 10**8},
    }
    stored = {
        "attempt_id": f"a{number}",
        "device_id": f"tcp:{number % 2}",
        "result": result,
        "passport": passport,
    }
    return TrialRecord(f"job/{number:05d}", f"{text}edit {number}", "done", payload, stored)


def record(trials: list[TrialRecord], *, text: str = "", **job: Any) -> JobRecord:
    attempts = [
        Attempt("job/00001", "lost", f"{text}edit 1", state="expired", reason=text or "it was unplugged")
    ]
    attempts += [
        Attempt(one.trial_id, f"a{number}", one.label, granted_at=20.0 * number, ended_at=20.0 * number + 5)
        for number, one in enumerate(trials, 1)
    ]
    spec = {**SPEC, "description": text or SPEC["description"]}
    return JobRecord(Job(**job), spec, summarise(trials, attempts), trials, attempts)


@pytest.fixture
def made() -> JobRecord:
    return record([trial(number) for number in range(1, 5)])


class Outline(HTMLParser):
    """Tags in order with their attributes, headings, and whether every tag is closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def outline(page: str) -> Outline:
    return Outline(page)


SECTIONS = [
    "Question",
    "Design",
    "Results",
    "Figures",
    "Phones",
    "Measured, modelled, missing",
    "Failures and retries",
    "Notes",
    "To reproduce",
    "All edits",
]


def test_every_section_is_there_in_its_order(made: JobRecord) -> None:
    found = outline(render(made, version="1.2"))
    assert found.headings == SECTIONS
    tags = [tag for tag, _ in found.tags]
    assert (tags.count("table"), tags.count("svg"), tags.count("h1")) == (9, 5, 1)


def test_the_same_results_give_the_same_bytes(made: JobRecord) -> None:
    assert render(made, version="1") == render(record([trial(n) for n in range(1, 5)]), version="1")


def test_the_page_stands_alone_and_runs_nothing(made: JobRecord) -> None:
    page = render(made, version="1")
    found = outline(page)
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & {tag for tag, _ in found.tags}
    names = {name for _, attributes in found.tags for name in attributes}
    assert not {"src", "href", "style", "srcset", "action"} & names
    assert not [name for name in names if name.startswith("on")]
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert not re.search(r"https?://", page)


def test_the_policy_allows_this_style_alone(made: JobRecord) -> None:
    page = render(made, version="1")
    policy = next(a["content"] for tag, a in outline(page).tags if "http-equiv" in a and tag == "meta")
    assert policy == CONTENT_SECURITY_POLICY
    style = re.search(r"<style>(.*)</style>", page, re.S)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'")


def test_numbers_of_the_tables_are_those_of_the_summary(made: JobRecord) -> None:
    (row,) = made.summary.methods
    success = row.quality.edit_success
    assert success is not None
    page = render(made, version="1")
    assert f'<td class="mean">{100 * success.mean:.1f}</td>' in page
    assert f'<td class="ci">[{100 * success.low:.1f}, {100 * success.high:.1f}]</td>' in page
    assert f'<td class="r">{row.edit_s_median:.2f}</td><td class="r">{row.edit_s_p90:.2f}</td>' in page
    assert [place.row.edits for place in places(made)] == [2, 2]


def test_the_spec_in_it_is_the_spec(made: JobRecord) -> None:
    words = outline(render(made, version="1")).words
    (text,) = [each for each in words if each.startswith("name: which is faster")]
    assert yaml.safe_load(text) == SPEC
    assert "ab" * 32 in words
    assert any("mobifarm models build tiny\n" in each for each in words)
    words = outline(render(replace(made, spec={**SPEC, "model": "tiny-npu"}), version="1")).words
    assert any("mobifarm models build tiny --npu w8a16\n" in each for each in words)


def test_what_is_missing_says_why(made: JobRecord) -> None:
    page = render(made, version="1")
    for words in (
        "not a phone: there is no energy to measure",
        "no clock sensor is readable",
        "no proof: no trace",
        "a job scores given answers",
        "measured, not of a phone",
    ):
        assert words in page
    assert "No successful edit has any; the reasons stand under" in page


def test_failures_of_the_farm_and_of_the_method_are_told_apart(made: JobRecord) -> None:
    assert [(each.label, each.outcome, each.whose) for each in failures(made)] == [
        ("edit 1", "expired", "the farm's"),
        ("edit 2", "step_limit", "the method's"),
    ]
    assert "it was unplugged" in render(made, version="1")


def test_measured_and_modelled_joules_never_share_a_column() -> None:
    measured = {"joules": 2.0, "uncertainty_joules": 0.5, "source": "rails", "provenance": "measured"}
    modelled = {"joules": 7.0, "source": "model", "provenance": "modelled"}
    lying = {**measured, "joules": 100.0}
    both = record(
        [
            trial(1, execution="phone", **measured),
            trial(2, execution="phone", **measured),
            trial(3, **modelled),
            trial(4, **lying),
        ]
    )
    found = {(place.row.execution, each.provenance): each for place in places(both) for each in place.energy}
    assert {key[1] for key in found if key[0] == "virtual"} == {"modelled"}
    page = render(both, version="1")
    # Of the phone's two edits one succeeded.
    (of_phone,) = [each for key, each in found.items() if key == ("phone", "measured")]
    assert of_phone.edits == 1
    measured_rows, modelled_rows = (
        [row for row in re.findall(r"<tr>.*?</tr>", part) if "<td>" in row]
        for begin in ("Measured: mean", "Modelled, from")
        for part in [page.partition(f"<caption>{begin}")[2].partition("</table>")[0]]
    )
    assert measured_rows
    assert modelled_rows
    assert all("<td>phone</td>" in row for row in measured_rows)
    assert all("<td>virtual</td>" in row for row in modelled_rows)
    assert '<td class="r">2.00</td><td class="none">–</td>' in measured_rows[0]


def test_energy_without_a_success_is_no_number() -> None:
    one = trial(2, execution="phone", joules=2.0, provenance="measured", source="rails")
    assert one.stored is not None
    (row,) = summarise([one], []).edits
    assert energies([(row, one.stored)]) == ()


def test_a_job_without_results_has_a_report() -> None:
    pending = replace(trial(1), state="pending", stored=None)
    page = render(
        JobRecord(
            Job(state="queued", finished_at=None, ended=0), SPEC, summarise([pending], []), [pending], []
        ),
        version="1",
    )
    assert "There are no results yet." in page
    assert "Figures" not in outline(page).headings


ORDINARY = {tag for tag, _ in outline(render(record([trial(1), trial(2)]), version="1")).tags}
HOSTILE = (
    "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\x1b]0;\x07\u202e\x9b31m]]>"
)


@pytest.mark.parametrize("text", [HOSTILE, "`", "<!--", "x" * 5000, "${jndi}", "\ud800"])
def test_text_of_others_is_text(text: str) -> None:
    made = record([trial(number, text=text) for number in range(1, 5)], text=text, name=text, user=text)
    other = [replace(each, agent_version="2") for each in edits_of(made.trials, made.summary.edits)]
    compared = compare_jobs(text, edits_of(made.trials, made.summary.edits), f"{text}2", other)
    page = render(made, version="1", compared=compared)
    found = outline(page)
    assert {tag for tag, _ in found.tags} <= ORDINARY
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)
    page.encode()
    if text == HOSTILE:
        assert any("<script>alert(1)</script>" in words for words in found.words)


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=40))
def test_no_text_changes_the_pages_tags(text: str) -> None:
    trials = [trial(1, text=text)]
    attempts = [Attempt("job/00001", "a1", text)]
    made = JobRecord(Job(name=text), SPEC, summarise(trials, attempts), trials, attempts)
    assert {tag for tag, _ in outline(render(made, version="1")).tags} <= ORDINARY


def test_another_job_is_set_against_it(made: JobRecord) -> None:
    ours = edits_of(made.trials, made.summary.edits)
    page = render(made, version="1", compared=compare_jobs("job-1", ours, "job-2", ours))
    assert "Against job-2" in outline(page).headings
    assert "May be subtracted: they repeat each other." in page
    theirs = [replace(each, temperature=60.0) for each in ours]
    page = render(made, version="1", compared=compare_jobs("job-1", ours, "job-2", theirs))
    assert "May not be subtracted because" in page
    assert "60.0 °C in B" in page


@pytest.mark.parametrize("number", [1.7e308, -1.7e308, 1e20, 800.0])
def test_no_number_of_a_phone_takes_a_job_s_results_away(number: float) -> None:
    answer = pb.AnswerScore(log_probability=number, tokens=1)
    efficacy = pb.ProbeScore(
        kind=pb.PROBE_KIND_EFFICACY,
        wanted_before=answer,
        wanted_after=answer,
        other_before=answer,
        other_after=answer,
    )
    told = pb.EditResult(
        status=pb.EDIT_STATUS_CONVERGED,
        scores=[efficacy],
        cost=pb.EditCost(edit_s=number, load_s=number, evaluation_s=number, loss_evaluations=2**64 - 1),
    )
    trials = [trial(1), trial(2), trial(3)]
    for one in trials[:2]:
        assert one.stored is not None
        one.stored["result"] = result_to_mapping(told)
    made = record(trials)
    json.dumps(made.summary.to_json(), allow_nan=False)
    to_csv(made.summary, trials)
    outline(render(made, version="1"))
