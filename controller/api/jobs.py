"""Routes about jobs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from mobifarm.controller.api.access import Role
from mobifarm.controller.api.bodies import Cancelled, JsonObject, Submission, Submitted
from mobifarm.controller.api.services import Farmhouse, Refused, Submitter, Viewer
from mobifarm.controller.core.views import AttemptView, JobView, TrialView
from mobifarm.controller.core.why import Why
from mobifarm.controller.results import job_comparability, job_report, job_results
from mobifarm.workloads.cells import Cell, cells
from mobifarm.workloads.comparability import Comparability
from mobifarm.workloads.exports import to_csv
from mobifarm.workloads.report.page import CONTENT_SECURITY_POLICY

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])


@router.get("")
def jobs(farm: Farmhouse, _: Viewer) -> list[JobView]:
    """All jobs, oldest first."""
    with farm.open_reader() as reader:
        return reader.jobs()


@router.post("")
async def submit(body: Submission, farm: Farmhouse, caller: Submitter) -> Submitted:
    """Plan an evaluation and queue its trials: all of them, or none where anything is wrong."""
    user = body.user if caller.local and body.user else caller.name
    return Submitted(**await farm.requests.submit(body.spec, body.records, user))


@router.get("/{job_id}")
def job(job_id: str, farm: Farmhouse, _: Viewer) -> JobView:
    """One job and how far it is."""
    with farm.open_reader() as reader:
        return reader.job(job_id)


@router.get("/{job_id}/spec")
def spec(job_id: str, farm: Farmhouse, _: Viewer) -> JsonObject:
    """The evaluation spec as submitted."""
    with farm.open_reader() as reader:
        return reader.spec(job_id)


@router.get("/{job_id}/trials")
def trials(job_id: str, farm: Farmhouse, _: Viewer) -> list[TrialView]:
    """The job's trials in the order of its plan."""
    with farm.open_reader() as reader:
        return reader.trials(job_id)


@router.get("/{job_id}/attempts")
def attempts(job_id: str, farm: Farmhouse, _: Viewer) -> list[AttemptView]:
    """Every lease of the job's trials, in the order in which they were granted."""
    with farm.open_reader() as reader:
        return reader.attempts(job_id)


@router.get("/{job_id}/results", response_model=dict[str, Any])
def results(job_id: str, farm: Farmhouse, _: Viewer) -> JSONResponse:
    """The job, its spec, the summary, and every result so far with its passport."""
    with farm.open_reader() as reader:
        return JSONResponse(job_results(reader, job_id).to_json())


@router.get("/{job_id}/results.csv", response_class=PlainTextResponse)
def results_csv(job_id: str, farm: Farmhouse, _: Viewer) -> PlainTextResponse:
    """One line per edit."""
    with farm.open_reader() as reader:
        found = job_results(reader, job_id)
        return PlainTextResponse(to_csv(found.summary, found.trials), media_type="text/csv")


@router.get("/{job_id}/report", response_class=HTMLResponse)
def report(job_id: str, farm: Farmhouse, _: Viewer, compare: str | None = None) -> HTMLResponse:
    """The job's report, one HTML page that stands alone; ``compare=JOB`` sets another job against it."""
    with farm.open_reader() as reader:
        page = job_report(reader, job_id, compare)
    headers = {
        "content-security-policy": f"{CONTENT_SECURITY_POLICY}; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(page, headers=headers)


@router.get("/{job_id}/comparability/{other_id}")
def comparability(job_id: str, other_id: str, farm: Farmhouse, _: Viewer) -> Comparability:
    """Whether the other job's results may be subtracted from this one's, why not, and what comes out."""
    with farm.open_reader() as reader:
        return job_comparability(reader, job_id, other_id)


@router.get("/{job_id}/cells", response_model=list[Cell])
def method_cells(job_id: str, farm: Farmhouse, _: Viewer) -> list[Cell]:
    """Each method on each phone: success, loss evaluations, seconds and joules with 95 % intervals."""
    with farm.open_reader() as reader:
        found = job_results(reader, job_id)
    stored = [trial.stored for trial in found.trials if trial.stored is not None]
    passports = {each["attempt_id"]: each.get("passport") or {} for each in stored}
    return cells(found.summary.edits, passports)


@router.get("/{job_id}/why")
async def why(job_id: str, farm: Farmhouse, _: Viewer) -> Why:
    """Why the job waits: for what, which phones would do, and when one may be free."""
    return farm.requests.why(job_id)


@router.post("/{job_id}/cancel")
async def cancel(job_id: str, farm: Farmhouse, caller: Submitter) -> Cancelled:
    """Cancel a job; trials that have a result keep it. Other people's jobs are the operator's to cancel."""
    job = farm.farm.state.jobs.get(job_id)
    if job is not None and job.user != caller.name and not caller.role.allows(Role.OPERATOR):
        raise Refused(403, f"{job_id} is {job.user}'s job: only {job.user} or an operator may cancel it")
    return Cancelled(**await farm.requests.cancel(job_id))
