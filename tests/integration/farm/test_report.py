"""Reports and exports of real jobs on virtual phones: the page's numbers are those of the results."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pyarrow import parquet

import mobifarm

EASY = {"contexts": 1, "norm_limit": 100.0, "norm_penalty": 0.0, "stop_probability": 0.01, "step_limit": 6}
HOSTILE = "<script>alert(1)</script>"


class Tables(HTMLParser):
    """The cells of every table by its caption, every tag and attribute, and the words of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.used: set[str] = set()
        self.words = ""
        self._caption = ""
        self._inside = ""
        self._table: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.used |= {tag, *(name for name, _ in attrs)}
        if tag == "table":
            self._table, self._caption = [], ""
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
        if tag in ("td", "th", "caption", "style"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.rows[self._caption] = self._table
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th"):
            self._table[-1][-1] += data
        elif self._inside == "caption":
            self._caption += data
        if self._inside != "style":
            self.words += data

    def captioned(self, begin: str) -> list[list[str]]:
        (found,) = [rows for caption, rows in self.rows.items() if caption.startswith(begin)]
        return found


def write_spec(folder: Path, name: str, bundle: Path, **more: Any) -> Path:
    path = folder / f"{name}.yaml"
    spec = {
        "name": name,
        "model": str(bundle),
        "dataset": {"file": "facts.json"},
        "methods": [{"name": "forward", "settings": {**EASY, "directions": 2}}],
        **more,
    }
    path.write_text(json.dumps(spec))
    return path


def write_facts(folder: Path, number: int) -> None:
    records = [
        {
            "record_id": f"fact-{n} {HOSTILE}",
            "subject": f"Ann {HOSTILE}",
            "prompt": f"Ann {HOSTILE} has dog {n} called",
            "target_new": "Biscuit",
            "target_true": "Lucky",
            "paraphrases": ["Her dog is"],
            "neighbours": [{"prompt": "Tintin's dog is", "answer": "Snowy"}],
            "portability": [],
        }
        for n in range(number)
    ]
    document = {"format": "mobifarm-edit-records", "version": 1, "records": records}
    (folder / "facts.json").write_text(json.dumps(document))


def test_a_page_says_what_the_results_say(farm: Any, tmp_path: Path, tiny_bundle_path: Path) -> None:
    write_facts(tmp_path, 3)
    on_one = {"serials": [farm.phones.phones[0].serial]}
    one = write_spec(tmp_path, "one", tiny_bundle_path, devices=on_one, description=f"Why? {HOSTILE}")
    more = [{"name": "forward", "label": "many", "settings": {**EASY, "directions": 8}}]
    blocks = write_spec(
        tmp_path,
        "blocks",
        tiny_bundle_path,
        design="ab",
        methods=[{"name": "forward", "label": "few", "settings": {**EASY, "directions": 2}}, *more],
    )
    other = write_spec(tmp_path, "other", tiny_bundle_path, devices=on_one, methods=more)
    farm.up()
    with mobifarm.Client(home=farm.home) as client:
        designed, first, again, differing = (client.submit(spec) for spec in (blocks, one, one, other))
        for job_id in (designed, first, again, differing):
            farm.wait_done(job_id)

        page = looked_at(client.report(designed))
        summary = client.summary(designed)
        numbers_agree(page, summary)
        compared = page.captioned("B = many against A = few")
        measures = [row["measure"] for row in summary["comparisons"]["rows"]]
        assert [row[0] for row in compared[1:]] == measures
        assert "noise floors" in page.words

        page = looked_at(client.report(first, compare=differing))
        numbers_agree(page, client.summary(first))
        assert f"Why? {HOSTILE}" in page.words
        assert "May be subtracted: the settings of forward → many differ" in page.words
        page = looked_at(client.report(first, compare=designed))
        assert "May not be subtracted because" in page.words
        assert "they did not make the same edits" in page.words

        file = tmp_path / "report.html"
        done = farm.run("report", first, "--compare", again, "-o", str(file))
        assert (done.returncode, done.stdout.strip()) == (0, str(file)), done.stderr
        assert "May be subtracted: they repeat each other." in looked_at(file.read_text()).words
        assert client.report(first, compare=again) == file.read_text()
        stored = client.results(first)

    found = json.loads(farm.run("report", first, "--compare", again, "--json").stdout)
    repeat = "may be subtracted: they repeat each other"
    assert [each["verdict"] for each in found["judgements"]] == [repeat] * 2
    evaluations = [d for d in found["judgements"][0]["differences"] if d["measure"] == "loss evaluations"]
    # The same seed on the same model makes the same edit.
    assert [(each["pairs"], each["difference"]) for each in evaluations] == [(3, 0.0)]
    exports(farm, first, stored, tmp_path)


def looked_at(text: str) -> Tables:
    """The page, after a look at it: nothing in it runs or comes from elsewhere."""
    page = Tables(text)
    assert not page.used & {"script", "link", "img", "src", "href", "onerror", "onload"}
    assert not re.search(r"(https?:)?//[a-z]", text)
    assert HOSTILE not in text
    assert HOSTILE in page.words
    return page


def numbers_agree(page: Tables, summary: dict[str, Any]) -> None:
    """Every number of the two tables by method equals the JSON's."""
    rows = [*([summary["unedited"]] if summary["unedited"] else []), *summary["methods"]]
    quality = page.captioned("Quality after the edit")
    assert len(quality) == 2 + len(rows)
    names = ("edit_success", "paraphrase_success", "neighbourhood_success", "rewrite_accuracy")
    for shown, row in zip(quality[2:], rows, strict=True):
        assert shown[:2] == [row["label"], str(row["edits"])]
        for place, name in enumerate((*names, "portability_accuracy")):
            estimate = row["quality"][name]
            expected = ["–", ""]
            if estimate is not None:
                mean, low, high = (f"{100 * estimate[part]:.1f}" for part in ("mean", "low", "high"))
                expected = [mean, f"[{low}, {high}]"]
            assert shown[2 + 2 * place : 4 + 2 * place] == expected
    costs = page.captioned("Cost of the edit alone")
    for shown, row in zip(costs[2:], summary["methods"], strict=True):
        number = {name: cell.replace("\N{NARROW NO-BREAK SPACE}", "") for name, cell in enumerate(shown)}
        assert [number[place] for place in (0, 1)] == [row["label"], row["execution"]]
        assert [int(number[place]) for place in (2, 3, 4)] == [
            row[k] for k in ("converged", "step_limit", "failed")
        ]
        for place, name in ((5, "edit_s_median"), (6, "edit_s_p90")):
            decimals = len(number[place].partition(".")[2])
            assert number[place] == f"{row[name]:.{decimals}f}"
        assert int(number[7]) == round(row["loss_evaluations_median"])
        assert int(number[8]) == round(row["token_layers_median"])
        assert int(number[9]) == round(row["peak_rss_bytes_max"] / 2**20)


def exports(farm: Any, job_id: str, stored: list[Any], folder: Path) -> None:
    samples = farm.home / "telemetry" / job_id
    samples.mkdir(parents=True, exist_ok=True)
    (samples / "attempt-1.parquet").write_bytes(b"PAR1")
    file, copies = folder / "rows.parquet", folder / "samples"
    done = farm.run("results", job_id, "--format", "parquet", "-o", str(file), "--telemetry", str(copies))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (copies / "attempt-1.parquet").read_bytes() == b"PAR1"
    rows = parquet.read_table(io.BytesIO(file.read_bytes())).to_pylist()
    assert [row["trial_id"] for row in rows] == [result["trial_id"] for result in stored]
    assert [row["passport.phone.soc"] for row in rows] == [r["passport"]["phone"]["soc"] for r in stored]
    refused = farm.run("results", job_id, "--format", "parquet")
    assert (refused.returncode, "-o FILE" in refused.stderr) == (2, True)
