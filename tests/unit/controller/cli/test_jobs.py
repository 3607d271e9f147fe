"""With which code `mobifarm run` ends; the farm is scripted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.cli import jobs
from mobifarm.controller.core.views import JobView
from mobifarm.controller.errors import DeviceError, FarmError, JobCancelled, WorkloadError


def job(state: str = "done", **counts: int) -> JobView:
    values: dict[str, Any] = dict.fromkeys(JobView.__dataclass_fields__, 0)
    values |= {"job_id": "job-1", "state": state, "trials": sum(counts.values()), **counts}
    return JobView(**values)


def run(ended: JobView, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs it; returns the jobs whose results were printed."""
    shown: list[str] = []
    monkeypatch.setattr(jobs, "farm_paths", lambda home: home)
    monkeypatch.setattr(jobs, "submit", lambda paths, spec: (ended.job_id, ended.trials))
    monkeypatch.setattr(jobs, "follow", lambda paths, job_id: ended)
    monkeypatch.setattr(jobs, "print_results", lambda paths, job_id, *_: shown.append(job_id))
    try:
        jobs.run(Path("spec.yaml"))
    finally:
        assert shown == ["job-1"]  # whatever the code is
    return shown


@pytest.mark.parametrize("ended", [job(done=3), job(done=1, failed=2)])
def test_a_job_that_was_carried_out_ends_well(ended: JobView, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(ended, monkeypatch)


@pytest.mark.parametrize(
    ("ended", "kind", "code", "words"),
    [
        (job(abandoned=2), DeviceError, 4, "2 of 2 edits of job-1 were given up"),
        (job(done=1, abandoned=1), DeviceError, 4, "`mobifarm results job-1` lists why"),
        (job("cancelled", done=1, cancelled=2), JobCancelled, 6, "cancelled with 1 of 3 results"),
        (job("cancelled", abandoned=1, cancelled=2), JobCancelled, 6, "cancelled with 0 of 3 results"),
        (job(failed=2), WorkloadError, 3, "no edit of job-1 could be done"),
    ],
)
def test_what_was_not_carried_out_is_no_success(
    ended: JobView, kind: type[FarmError], code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(kind, match=words) as raised:
        run(ended, monkeypatch)
    assert raised.value.exit_code == code
