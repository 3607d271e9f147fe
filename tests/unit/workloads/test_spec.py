"""The evaluation spec: data only, checked whole, every problem in words."""

from __future__ import annotations

import json
import textwrap
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.methods import METHOD_NAMES
from mobifarm.workloads.spec import SIZE_LIMIT_BYTES, load_spec, parse_spec

MINIMAL: dict[str, Any] = {
    "name": "facts",
    "model": "smollm2-135m-instruct",
    "dataset": {"builtin": "personal-facts"},
    "methods": [{"name": "forward"}],
}


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(WorkloadInputError) as caught:
        parse_spec({**MINIMAL, **changes})
    return str(caught.value)


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_minimal_spec_has_the_documented_defaults() -> None:
    spec = parse_spec(MINIMAL)
    assert (spec.repeats, spec.seed, spec.priority, spec.attempts) == (1, 0, 0, 3)
    assert (spec.devices.execution, spec.devices.count, spec.devices.serials) == ("any", None, [])
    assert (spec.dataset.offset, spec.dataset.limit, spec.dataset.format) == (0, None, "auto")
    assert spec.methods[0].title == "forward"


def test_settings_are_completed_with_the_defaults_of_the_method() -> None:
    spec = parse_spec(
        {**MINIMAL, "methods": [{"name": "forward", "settings": {"step_limit": 7}, "label": "short"}]}
    )
    settings = spec.methods[0].complete_settings()
    assert settings["step_limit"] == 7
    assert "perturbation" in settings
    assert spec.methods[0].title == "short"


def test_telemetry_is_on_and_nothing_is_waited_for_unless_the_spec_says_so(tmp_path: Path) -> None:
    assert (parse_spec(MINIMAL).telemetry, parse_spec(MINIMAL).idle_window_s) == (True, 0.0)
    spec = load_spec(write(tmp_path, f"{json.dumps(MINIMAL)[:-1]}, telemetry: off, idle_window_s: 5}}"))
    assert (spec.telemetry, spec.idle_window_s) == (False, 5.0)
    with pytest.raises(WorkloadInputError, match="idle_window_s"):
        parse_spec({**MINIMAL, "idle_window_s": 601})


@pytest.mark.parametrize(("written", "keep"), [("no", "no"), ("together", "together"), ("'no'", "no")])
def test_a_phone_may_keep_the_edits(tmp_path: Path, written: str, keep: str) -> None:
    assert parse_spec(MINIMAL).keep == "no"
    path = write(tmp_path, f"{json.dumps(MINIMAL)[:-1]}, keep: {written}}}")
    assert load_spec(path).keep == keep


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep": "yes"}, "keep: is 'yes': choose 'no', 'together' or 'in_sequence'"),
        ({"keep": True}, "keep: is True: choose"),
        (
            {"keep": "together", "repeats": 2},
            "a phone keeps one edit of a fact: give one method and repeats: 1",
        ),
        (
            {"keep": "in_sequence", "methods": [{"name": "forward"}, {"name": "forward", "label": "again"}]},
            "keep is 'in_sequence', and a phone keeps one edit of a fact",
        ),
        (
            {"keep": "together", "methods": [{"name": "rome"}]},
            "rome runs on the farm's computer, which keeps no edits",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(changes)


def test_the_example_of_the_demo_is_valid() -> None:
    spec = load_spec(Path(str(files("mobifarm.workloads") / "examples" / "personal-facts.yaml")))
    assert spec.dataset.limit == 36
    assert [method.name for method in spec.methods] == ["forward"]
    assert spec.repeats == 1


def test_the_example_of_the_comparison_is_valid() -> None:
    spec = load_spec(Path(str(files("mobifarm.workloads") / "examples" / "compare-methods.yaml")))
    names = [method.name for method in spec.methods]
    assert names[0] == "forward"
    assert {"rome", "in_context", "unedited"} <= set(names)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_may_be_named(name: str) -> None:
    spec = parse_spec({**MINIMAL, "methods": [{"name": name}]})
    assert json.loads(json.dumps(spec.methods[0].complete_settings())) == spec.methods[0].complete_settings()


def test_a_baselines_settings_are_completed_and_checked() -> None:
    rome = {"name": "rome_cached_early", "settings": {"steps": 5}}
    settings = parse_spec({**MINIMAL, "methods": [rome]}).methods[0].complete_settings()
    assert (settings["steps"], settings["contexts"]) == (5, 6)
    assert settings["stop_loss"] == pytest.approx(0.1054, abs=1e-4)
    assert "steps is 0: give a whole number from 1" in refusal(
        {"methods": [{"name": "rome", "settings": {"steps": 0}}]}
    )
    assert "'steps' is no setting (known: none)" in refusal(
        {"methods": [{"name": "unedited", "settings": {"steps": 1}}]}
    )


def test_an_unknown_method_is_told_all_names_and_where_they_run() -> None:
    message = refusal({"methods": [{"name": "backward"}]})
    for name in METHOD_NAMES:
        assert name in message
    assert "(on the computer)" in message


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        nam: facts
        model: yes
        dataset: {builtin: facts, fil: 3}
        methods:
          - {name: forward, settings: {step_limi: 3}}
          - {name: backward}
        devices: {execution: cloud, serials: [0123], count: 0}
        repeats: "1"
        seed: -1
        """,
    )
    with pytest.raises(WorkloadInputError) as caught:
        load_spec(path)
    message = str(caught.value)
    assert message.startswith(f"{path} has 12 problems:")
    for line in (
        "name: is missing: add it",
        "nam: is not a known name: did you mean name?",
        "model: is read as True: put it in quotes",
        "dataset, builtin: is 'facts': choose 'personal-facts'",
        "dataset, fil: is not a known name: did you mean file?",
        "methods, entry 1: the settings do not fit: 'step_limi' is no setting",
        "methods, entry 2: 'backward' is no editing method",
        "devices, execution: is 'cloud': choose 'any', 'phone', 'virtual' or 'qemu_arm64'",
        "devices, serials, entry 1: is read as 83: put it in quotes",
        "devices, count: is 0",
        "repeats: is '1'",
        "seed: is -1",
    ):
        assert f"\n  {line}" in message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dataset": {}}, "dataset: give exactly one of builtin and file"),
        (
            {"dataset": {"builtin": "personal-facts", "file": "a.json"}},
            "give exactly one of builtin and file",
        ),
        ({"dataset": {"builtin": "personal-facts", "format": "counterfact"}}, "leave format away"),
        ({"dataset": {"file": "a", "record_ids": ["x", "x"]}}, "lists a record twice"),
        ({"dataset": "personal-facts"}, "dataset: is 'personal-facts'"),
        ({"methods": []}, "methods: is []"),
        ({"methods": [{"name": "forward"}] * 2}, "two methods are called forward: give each its own label"),
        (
            {"methods": [{"name": "forward", "settings": {"step_limit": [1]}}]},
            "methods, entry 1, settings, step_limit",
        ),
        (
            {"methods": [{"name": "forward", "settings": {"perturbation": float("nan")}}]},
            "perturbation is nan",
        ),
        ({"name": "a/b"}, "name: is 'a/b': use letters, digits"),
        ({"name": " "}, "name: is"),
        ({"attempts": 0}, "attempts: is 0"),
        ({"repeats": True}, "repeats: is True"),
        ({"seed": 2**53}, "seed: is 9007199254740992"),
        ({"user": "somebody"}, "user: is not a known name"),
    ],
)
def test_a_problem_is_named_with_its_place_and_remedy(changes: dict[str, Any], named: str) -> None:
    assert named in refusal(changes)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "holds no settings"),
        ("- a", "holds no settings"),
        ("name: [", "is not YAML: line"),
        ("name: a\nname: b", "name is given twice, keep one"),
        ("a: &x 1\nb: *x", "references (& and *) are not supported"),
        ("a: &x [*x]", "references (& and *) are not supported"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML: line 1"),
        ("a: 2026-13-45", "cannot be read as YAML"),
        ("[" * 600, "cannot be read as YAML"),
        ("a: " + "x" * SIZE_LIMIT_BYTES, "too large for a spec"),
        ("a: \x07", "is not YAML"),
        ("a: !!bool x", "cannot be read as YAML"),
        ('a: !!int ""', "cannot be read as YAML"),
        ('a: !!float ""', "cannot be read as YAML"),
        ("a: !!timestamp x", "cannot be read as YAML"),
    ],
)
def test_text_that_is_no_spec_is_refused_in_words(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(WorkloadInputError) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_files_that_cannot_be_read_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(WorkloadInputError, match="name a spec that exists"):
        load_spec(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(WorkloadInputError, match="is not UTF-8"):
        load_spec(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"design": "ab"}, "compares two methods"),
        ({"design": "aa", "methods": [{"name": "forward"}, {"name": "mobiedit"}]}, "one method"),
        ({"design": "abc"}, "choose 'ab' or 'aa'"),
        ({"design": "ab", "methods": [{"name": "forward"}, {"name": "rome"}]}, "leave design away"),
        ({"design": "aa", "keep": "together"}, "leave keep away"),
    ],
)
def test_a_design_needs_its_methods(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkloadInputError, match=words):
        parse_spec({**MINIMAL, **changes})


def test_a_design_compares_two_methods_or_one_with_itself() -> None:
    two = [{"name": "forward"}, {"name": "mobiedit"}]
    assert parse_spec({**MINIMAL, "design": "ab", "methods": two}).design == "ab"
    assert parse_spec({**MINIMAL, "design": "aa"}).design == "aa"


def test_a_condition_that_cannot_be_read_is_named() -> None:
    spec = parse_spec({**MINIMAL, "devices": {"where": ["npu.arch >= 73"], "placement": "spread"}})
    assert spec.devices.where == ["npu.arch >= 73"]
    words = refusal({"devices": {"where": ["npu.arch >= 73", "npu.arhc >= 73"]}})
    assert "devices, where, entry 2" in words
    assert "did you mean npu.arch?" in words


def test_gates_have_their_defaults_and_can_be_left_open() -> None:
    gates = parse_spec(MINIMAL).gates
    assert (gates.max_temperature_celsius, gates.min_battery_percent, gates.unknown) == (45.0, 15.0, "allow")
    assert parse_spec({**MINIMAL, "gates": {"max_temperature_celsius": None}}).gates.charging is None
    assert "did you mean screen_off?" in refusal({"gates": {"screen_of": True}})
