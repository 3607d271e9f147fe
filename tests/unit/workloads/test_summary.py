"""The result tables of a job, and how they are printed and exported."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from rich.console import Console

from mobifarm.workloads.exports import to_csv
from mobifarm.workloads.statistics import wilson_interval
from mobifarm.workloads.summary import Summary, TrialRecord, mean_with_interval, summarise
from mobifarm.workloads.tables import CSV_COLUMNS, print_summary

GOOD = {"log_probability": -0.1, "tokens": 1, "tokens_argmax": 1}
BAD = {"log_probability": -5.0, "tokens": 1, "tokens_argmax": 0}
RECORD = {"paraphrases": ["p"], "neighbours": [{"prompt": "n", "answer": "a"}], "portability": []}


@dataclass(frozen=True)
class Attempt:
    trial_id: str
    attempt_id: str
    label: str = "ann"
    device_id: str = "tcp:1"
    serial: str = "S1"
    execution: str = "virtual"
    state: str = "done"
    granted_at: float = 10.0
    ended_at: float | None = 12.5
    reason: str = ""


def scored(kind: str, *, after: bool, before: bool = False) -> dict[str, Any]:
    other = None if kind == "portability" else {"log_probability": -1.0, "tokens": 1, "tokens_argmax": 0}
    return {
        "kind": kind,
        "wanted_before": GOOD if before else BAD,
        "wanted_after": GOOD if after else BAD,
        "other_before": other,
        "other_after": other,
    }


def trial(
    number: int,
    *,
    record: str = "",
    method: str = "forward",
    success: bool = True,
    status: str | None = "converged",
    state: str = "done",
    device: str = "tcp:1",
    execution: str = "virtual",
    edit_s: float = 2.0,
    temperatures: tuple[float, float] | None = None,
    repeat: int = 0,
    known_before: bool = False,
    energy: dict[str, Any] | None = None,
) -> TrialRecord:
    record_id = record or f"r{number}"
    payload = {
        "bundle_hash": "b",
        "method_label": method,
        "record": {**RECORD, "record_id": record_id},
        "repeat": repeat,
    }
    stored = None
    if status is not None:
        scores = [
            scored("efficacy", after=success, before=known_before),
            scored("paraphrase", after=success),
            scored("neighbourhood", before=True, after=True),
        ]
        cost = {
            "steps": 3,
            "loss_evaluations": 100 * number,
            "token_layers": 1000 * number,
            "edit_s": edit_s,
            "evaluation_s": 0.5,
            "peak_rss_bytes": 1_000_000 * number,
        }
        result: dict[str, Any] = {"status": status, "message": "", "scores": scores, "cost": cost}
        if status in ("failed", "refused"):
            result = {"status": status, "message": "the target has no tokens"}
        ends = dict(zip(("first", "last"), temperatures, strict=True)) if temperatures else {}
        stored = {
            "attempt_id": f"a{number}",
            "device_id": device,
            "result": result,
            "passport": {
                "phone": {"serial": f"S-{device}", "model": "Pixel 8"},
                "execution": execution,
                "settings_hash": "s",
                "energy": energy or {"joules": None, "reason": "from before it was measured"},
                "temperatures": {
                    moment: {
                        "thermal/skin": {"value": 99.0, "unit": "degC"},
                        "battery/temperature": {"value": value, "unit": "degC"},
                    }
                    for moment, value in ends.items()
                },
            },
        }
    return TrialRecord(f"job/{number:05d}", f"edit {number}", state, payload, stored)


def printed(summary: Summary, width: int = 200, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(summary, console, **options)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_successes_are_shares_of_edits_beside_the_unedited_model() -> None:
    trials = [trial(i, success=i != 4, status="step_limit" if i == 4 else "converged") for i in range(1, 5)]
    summary = summarise(trials, [])
    (row,) = summary.methods
    assert (row.label, row.execution, row.edits) == ("forward", "virtual", 4)
    assert (row.converged, row.step_limit, row.failed) == (3, 1, 0)
    assert row.quality.edit_success is not None
    assert row.quality.edit_success.mean == 0.75
    assert row.quality.edit_success.low == pytest.approx(0.3006, abs=1e-4)
    assert row.quality.edit_success.high == pytest.approx(0.9544, abs=1e-4)
    assert row.quality.neighbourhood_success is not None
    assert row.quality.neighbourhood_success.mean == 1.0
    assert row.quality.portability_accuracy is None
    assert row.loss_evaluations_median == 250
    assert row.token_layers_median == 2500
    assert row.peak_rss_bytes_max == 4_000_000
    assert summary.unedited is not None
    assert summary.unedited.quality.edit_success is not None
    assert summary.unedited.quality.edit_success.mean == 0.0
    assert summary.unedited.edits == 4
    assert summary.unedited.edit_s_median is None


@pytest.mark.parametrize("status", ["failed", "refused"])
def test_a_failed_edit_counts_as_wrong_in_every_mean_and_in_no_cost(status: str) -> None:
    trials = [trial(1), trial(2, status=status, state="failed")]
    (row,) = summarise(trials, []).methods
    assert (row.edits, row.failed) == (2, 1)
    for estimate in (
        row.quality.edit_success,
        row.quality.rewrite_accuracy,
        row.quality.paraphrase_success,
        row.quality.neighbourhood_success,
    ):
        assert estimate is not None
        assert (estimate.mean, estimate.edits) == (0.5, 2)
    assert row.loss_evaluations_median == 100


def test_a_trial_without_a_result_counts_nowhere_and_is_told() -> None:
    trials = [
        trial(1),
        trial(2, status=None, state="abandoned"),
        trial(3, status=None, state="pending"),
        trial(4, status=None, state="pending"),
    ]
    summary = summarise(trials, [])
    (row,) = summary.methods
    assert row.edits == 1
    assert row.quality.edit_success is not None
    assert row.quality.edit_success.mean == 1.0
    assert summary.missing == {"abandoned": 1, "pending": 2}
    assert any("1 abandoned, 2 pending" in note for note in summary.footnotes)


def test_methods_and_kinds_of_phones_are_never_mixed() -> None:
    trials = [
        trial(1, record="x", method="late", edit_s=9.0),
        trial(2, record="x", method="early", edit_s=1.0),
        trial(3, record="x", method="late", execution="phone", device="usb:1", edit_s=30.0),
    ]
    summary = summarise(trials, [])
    assert [(row.label, row.execution, row.edit_s_median) for row in summary.methods] == [
        ("late", "virtual", 9.0),
        ("early", "virtual", 1.0),
        ("late", "phone", 30.0),
    ]
    assert summary.unedited is not None
    assert summary.unedited.edits == 1


def test_the_computer_stands_apart_from_the_phones_and_from_their_unedited_model() -> None:
    on_computer = trial(
        2, record="x", method="rome", execution="computer", device="computer", known_before=True
    )
    summary = summarise([on_computer, trial(1, record="x", edit_s=9.0)], [])
    assert [(row.label, row.execution) for row in summary.methods] == [
        ("rome", "computer"),
        ("forward", "virtual"),
    ]
    assert [row.device_id for row in summary.phones] == ["tcp:1"]
    assert [row.device_id for row in summary.computers] == ["computer"]
    assert summary.unedited is not None
    assert summary.unedited.quality.edit_success is not None
    assert summary.unedited.quality.edit_success.mean == 0.0
    assert "torch in fp32 on this computer" in printed(summary)
    alone = summarise([on_computer], []).unedited
    assert alone is not None
    assert alone.quality.edit_success is not None
    assert alone.quality.edit_success.mean == 1.0
    assert "torch" not in printed(summarise([trial(1)], []))


def test_repeats_of_one_fact_do_not_narrow_the_interval() -> None:
    once = [trial(i, success=i % 2 == 0) for i in range(1, 9)]
    again = [
        trial(10 * repeat + i, record=f"r{i}", success=i % 2 == 0, repeat=repeat)
        for repeat in range(5)
        for i in range(1, 9)
    ]
    (single,), (repeated,) = summarise(once, []).methods, summarise(again, []).methods
    assert single.quality.edit_success is not None
    assert repeated.quality.edit_success is not None
    assert repeated.edits == 40
    width = repeated.quality.edit_success.high - repeated.quality.edit_success.low
    assert width > 0.8 * (single.quality.edit_success.high - single.quality.edit_success.low)
    assert any("not independent" in note for note in summarise(again, []).footnotes)


@pytest.mark.parametrize(
    "values",
    [
        [("a", 0.2)],
        [("a", 0.2), ("b", 0.2)],
        [("a", 0.1), ("b", 0.3)],
        [("a", 0.1), ("a", 0.3)],
        [(name, 0.2) for name in "abcdefghij"],
    ],
)
def test_a_share_that_says_nothing_of_its_spread_has_a_wide_interval(values: list[tuple[str, float]]) -> None:
    found = mean_with_interval(values, shares=True)
    assert found is not None
    assert found.mean == pytest.approx(0.2)
    records = len({record for record, _ in values})
    wide = wilson_interval(0.2 * records, records)
    assert (found.low, found.high) == (pytest.approx(wide.low), pytest.approx(wide.high))
    assert found.high - found.low > 0.4


def test_the_same_results_give_the_same_tables() -> None:
    trials = [trial(i, success=i % 3 == 0) for i in range(1, 20)]
    assert summarise(trials, []) == summarise(trials, [])


def test_phones_show_their_own_edits_and_the_battery_from_first_to_last() -> None:
    trials = [
        trial(1, device="tcp:2", edit_s=1.0, temperatures=(30.0, 31.0)),
        trial(2, device="tcp:1", edit_s=5.0),
        trial(3, device="tcp:2", edit_s=3.0, temperatures=(32.0, 33.5)),
    ]
    one, two = summarise(trials, []).phones
    assert (one.device_id, one.edits, one.edit_s_median) == ("tcp:1", 1, 5.0)
    assert (one.temperature_sensor, one.temperature_first, one.temperature_last) == (None, None, None)
    assert (two.device_id, two.edits, two.edit_s_median) == ("tcp:2", 2, 2.0)
    assert (two.temperature_sensor, two.temperature_first, two.temperature_last) == (
        "battery/temperature",
        30.0,
        33.5,
    )


def test_attempts_are_numbered_within_their_trial() -> None:
    attempts = [
        Attempt("job/00001", "a1", state="broken", reason="the cable was pulled"),
        Attempt("job/00002", "a2", label="bob", ended_at=None, state="running"),
        Attempt("job/00001", "a3", device_id="tcp:2"),
    ]
    summary = summarise([trial(1), trial(2, status=None, state="leased")], attempts)
    rows = summary.attempts
    assert [(row.label, row.number, row.of, row.state) for row in rows] == [
        ("ann", 1, 2, "broken"),
        ("bob", 1, 1, "running"),
        ("ann", 2, 2, "done"),
    ]
    assert (rows[0].duration_s, rows[1].duration_s) == (2.5, None)
    assert [edit.attempts for edit in summary.edits] == [2, 1]
    assert "the cable was pulled" in printed(summary)
    assert "bob" not in printed(summary, attempts="retried")
    assert "bob" in printed(summary, attempts="all")
    assert "Attempts" not in printed(summary, attempts="none")


def test_the_table_says_what_is_modelled_and_what_was_not_measured() -> None:
    text = printed(summarise([trial(1, temperatures=(30.0, 31.0)), trial(2, device="tcp:2")], []))
    for expected in (
        "100.0 [34–100]",
        "virtual",
        "30.0 → 31.0 modelled",
        "not read",
        "not phone performance",
        "Energy: not measured",
    ):
        assert expected in text
    measured = printed(summarise([trial(1, execution="phone", temperatures=(30.0, 31.0))], []))
    assert "modelled" not in measured


def test_text_of_a_phone_is_not_read_as_markup() -> None:
    attempts = [Attempt("job/00001", f"a{i}", reason="[bold]no[/bold] [/]") for i in range(2)]
    assert "[bold]no[/bold] [/]" in printed(summarise([trial(1)], attempts))


def test_an_edit_that_was_given_up_after_one_attempt_is_listed_with_the_reason() -> None:
    trials = [trial(1), trial(2, status=None, state="abandoned"), trial(3, status=None, state="cancelled")]
    reasons = ("", "it was unplugged", "the job was cancelled")
    attempts = [
        Attempt(one.trial_id, f"a{i}", label=one.label, reason=reason)
        for i, (one, reason) in enumerate(zip(trials, reasons, strict=True))
    ]
    shown = printed(summarise(trials, attempts))
    assert "Attempts of the edits that needed more than one or were given up" in shown
    (line,) = [line for line in shown.splitlines() if "edit 2" in line]
    assert "it was unplugged" in line
    assert "edit 1" not in shown
    assert "edit 3" not in shown
    assert "it was unplugged" not in printed(summarise(trials, attempts), attempts="none")
    assert "There are no results.\n" in printed(summarise(trials[1:], attempts[1:]))


def test_nothing_that_is_copied_is_folded_on_a_narrow_terminal() -> None:
    phones = [trial(i, method=f"method {i % 4}", device=f"tcp:127.0.0.1:4400{i % 2}") for i in range(8)]
    attempts = [
        Attempt("job/00001", f"a{i}", device_id="tcp:127.0.0.1:44001", reason="why " * 30) for i in "12"
    ]
    lines = printed(summarise(phones, attempts), 80).splitlines()
    for whole in ("method 3", "100.0 [34–100]", "tcp:127.0.0.1:44001", "1 of 2"):
        assert any(whole in line for line in lines), whole


def test_a_job_without_results_has_tables_too() -> None:
    summary = summarise([trial(1, status=None, state="pending")], [])
    assert summary.unedited is None
    assert summary.methods == ()
    assert "There are no results yet." in printed(summary)
    assert "1 pending" in printed(summary)


def test_json_is_strict_and_complete() -> None:
    trials = [trial(1, temperatures=(30.0, 31.0)), trial(2, status="failed", state="failed")]
    document = summarise(trials, [Attempt("job/00001", "a1")]).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == {
        **document,
        "methods": list(document["methods"]),
        "phones": list(document["phones"]),
        "computers": list(document["computers"]),
        "attempts": list(document["attempts"]),
        "edits": list(document["edits"]),
        "footnotes": list(document["footnotes"]),
    }
    assert document["methods"][0]["quality"]["edit_success"]["mean"] == 0.5


def test_repeats_that_agree_leave_the_uncertainty_of_the_records() -> None:
    trials = [trial(i, record=f"r{i % 3}", repeat=i // 3) for i in range(6)]
    (row,) = summarise(trials, []).methods
    once = summarise(trials[:3], []).methods[0].quality.edit_success
    twice = row.quality.edit_success
    assert once is not None
    assert twice is not None
    assert (twice.mean, twice.edits) == (1.0, 6)
    assert (twice.low, twice.high) == (once.low, once.high)
    assert twice.low < 0.5


@pytest.mark.parametrize("success", [True, False])
def test_a_lost_repeat_does_not_make_certain_what_is_not(success: bool) -> None:
    whole = [trial(i, record=f"r{i % 3}", repeat=i // 3, success=success) for i in range(6)]
    all_of_them = summarise(whole, []).methods[0].quality.edit_success
    all_but_one = summarise(whole[:-1], []).methods[0].quality.edit_success
    assert all_of_them is not None
    assert all_but_one is not None
    assert (all_but_one.low, all_but_one.high) == (all_of_them.low, all_of_them.high)
    assert all_but_one.high - all_but_one.low > 0.5


def test_csv_has_one_line_per_edit_and_leaves_unmeasured_cells_empty() -> None:
    hostile = trial(2, status="failed", state="failed")
    assert hostile.stored is not None
    hostile.stored["result"]["message"] = "=cmd()"
    trials = [trial(1), hostile, trial(3, status=None)]
    rows = list(csv.DictReader(io.StringIO(to_csv(summarise(trials, []), trials))))
    assert tuple(rows[0])[: len(CSV_COLUMNS)] == CSV_COLUMNS
    assert [row["trial_id"] for row in rows] == ["job/00001", "job/00002", "job/00003"]
    assert (rows[0]["edit_success_before"], rows[0]["edit_success_after"]) == ("0.0", "1.0")
    assert (rows[0]["portability_accuracy_after"], rows[0]["edit_s"]) == ("", "2.0")
    assert (rows[1]["edit_success_after"], rows[1]["edit_s"], rows[1]["message"]) == ("0.0", "", "'=cmd()")
    assert (rows[2]["edit_success_after"], rows[2]["status"]) == ("", "")


def test_edits_that_were_kept_are_told_with_their_phones() -> None:
    trials = [trial(1), trial(2), trial(3, device="tcp:2")]
    for number, one in enumerate(trials):
        assert one.stored is not None
        one.stored["passport"].update({"edits_applied": number, "kept": number > 0})
    summary = summarise(trials, [])
    assert [(row.edits_applied, row.kept) for row in summary.edits] == [(0, False), (1, True), (2, True)]
    (note,) = [note for note in summary.footnotes if "kept" in note]
    assert "Edits were kept: 1 by S-tcp:1, 1 by S-tcp:2." in note
    assert not any("kept" in note for note in summarise([trial(1)], []).footnotes)


def designed(block: int, place: int, arm: str, edit_s: float, **others: Any) -> TrialRecord:
    made = trial(
        block * 10 + place, record="r", method="new" if arm == "B" else "old", edit_s=edit_s, **others
    )
    return replace(made, payload={**made.payload, "design": {"block": block, "place": place, "arm": arm}})


def block(number: int, times: tuple[float, ...], **others: Any) -> list[TrialRecord]:
    return [designed(number, place, arm, times[place], **others) for place, arm in enumerate("ABBA")]


def test_a_design_is_compared_by_phone() -> None:
    trials = [t for number in range(5) for t in block(number, (2.0 + 0.01 * number, 1.0, 1.0, 2.0))]
    trials += [t for number in range(5, 10) for t in block(number, (2.0, 1.5, 1.5, 2.0), device="tcp:2")]
    found = summarise(trials, [])
    assert found.comparisons is not None
    assert (found.comparisons.a, found.comparisons.b, found.comparisons.incomplete) == ("old", "new", 0)
    rows = {(row.measure, row.comparison.phone): row.comparison for row in found.comparisons.rows}
    seconds = [value for (measure, _), value in rows.items() if measure == "seconds per edit"]
    assert [row.verdict.value for row in seconds] == ["B is lower"] * 3
    assert seconds[0].effect == pytest.approx(-0.5, abs=0.01)
    assert seconds[1].effect == pytest.approx(-0.25)
    assert rows["edit success", "all phones"].effect == 0.0
    shown = printed(found)
    assert "B = new against A = old: 10 of 10 blocks" in shown
    assert "B is lower" in shown
    assert "noise floor" in shown


def test_blocks_that_lost_an_edit_or_moved_are_left_out() -> None:
    trials = [t for number in range(4) for t in block(number, (2.0, 1.0, 1.0, 2.0))]
    trials[0] = designed(0, 0, "A", 2.0, device="tcp:2")
    trials[7] = designed(1, 3, "A", 2.0, status=None, state="pending")
    found = summarise(trials, []).comparisons
    assert found is not None
    assert (found.blocks, found.incomplete) == (4, 2)
    assert {row.comparison.blocks for row in found.rows} == {2}
    assert {row.comparison.verdict.value for row in found.rows} == {"fewer than 3 blocks"}
    assert "2 blocks are in no comparison" in printed(summarise(trials, []))


def test_a_failed_edit_counts_in_quality_and_not_in_time() -> None:
    trials = [t for number in range(4) for t in block(number, (2.0, 1.0, 1.0, 2.0))]
    trials[1] = designed(0, 1, "B", 1.0, status="failed", success=False, state="failed")
    found = summarise(trials, []).comparisons
    assert found is not None
    blocks = {row.measure: row.comparison.blocks for row in found.rows}
    assert blocks["seconds per edit"] == 3
    assert blocks["edit success"] == 4


def test_without_a_design_nothing_is_compared() -> None:
    assert summarise([trial(1)], []).comparisons is None


def joules(value: float, provenance: str, gross: float | None = None) -> dict[str, Any]:
    figures = {"joules": value, "uncertainty_joules": 0.1, "gross_joules": gross or value + 1.0}
    return {**figures, "gross_uncertainty_joules": 0.2, "provenance": provenance, "source": "rails"}


def test_energy_is_that_of_successful_edits_and_modelled_joules_stand_apart() -> None:
    trials = [
        trial(1, energy=joules(2.0, "modelled")),
        trial(2, energy=joules(4.0, "modelled")),
        trial(3, energy=joules(99.0, "modelled"), success=False),
        trial(4, energy=joules(6.0, "measured"), execution="phone"),
        trial(5, execution="phone"),
    ]
    summary = summarise(trials, [])
    virtual, phone = summary.methods
    assert virtual.joules is None
    assert virtual.gross_joules is None
    assert virtual.modelled_joules is not None
    assert (virtual.modelled_joules.mean, virtual.modelled_joules.edits) == (3.0, 2)
    assert virtual.modelled_gross_joules is not None
    assert virtual.modelled_gross_joules.mean == 4.0
    assert phone.modelled_joules is None
    assert phone.joules is not None
    assert (phone.joules.mean, phone.joules.edits) == (6.0, 1)

    text = printed(summary)
    lines = {
        line.split("│")[1].strip(): line for line in text.splitlines() if "energy" in line and "│" in line
    }
    assert "6.00" in lines["energy, J per successful edit"]
    assert "[" not in lines["energy, J per successful edit"]  # one edit has no interval
    assert "3.00" not in lines["energy, J per successful edit"]
    assert "3.00" in lines["energy (modelled), J per successful edit"]
    assert "6.00" not in lines["energy (modelled), J per successful edit"]
    assert "no measurement" in text

    rows = list(csv.DictReader(io.StringIO(to_csv(summary, trials))))
    assert [row["joules"] for row in rows] == ["", "", "", "6.0", ""]
    assert [row["modelled_joules"] for row in rows] == ["2.0", "4.0", "99.0", "", ""]
    assert rows[4]["energy_reason"] == "from before it was measured"
    json.dumps(summary.to_json(), allow_nan=False)


def test_without_energy_there_is_no_row_and_a_note() -> None:
    text = printed(summarise([trial(1)], []))
    assert "J per successful edit" not in text
    assert "Energy: not measured" in text


def test_a_phone_shows_every_accelerator_that_its_edits_name() -> None:
    trials = [trial(1), trial(2), trial(3)]
    told: list[dict[str, Any]] = [
        {"name": "htp_emulator", "details": {"operators": 146, "operators_on_accelerator": 146}},
        {"name": "cpu", "details": {"reason": "the worker failed twice in a call"}},
    ]
    for one, accelerator in zip(trials, [told[0], told[0], told[1]], strict=True):
        assert one.stored is not None
        one.stored["passport"]["accelerator"] = accelerator
    summary = summarise(trials, [])
    (phone,) = summary.phones
    assert phone.accelerator == (
        "htp_emulator (146 of 146 operators); cpu (the worker failed twice in a call)"
    )
    shown = printed(summary)
    assert "accelerator" in shown
    assert "htp_emulator" in shown
    assert summarise([trial(1)], []).phones[0].accelerator == ""
