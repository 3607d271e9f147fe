"""The noise floors that the newest finished job with a design has shown."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, NoReturn

from mobifarm.controller.core.state import FarmState, JobState
from mobifarm.controller.results import job_results
from mobifarm.controller.store.read import Reader
from mobifarm.workloads.comparisons import Comparisons

logger = logging.getLogger(__name__)

PERIOD_S: Final = 2.0  # a busy farm changes a hundred times a second
LOOK_BACK: Final = 50  # finished jobs that a controller that starts looks through for one with a design


class NoiseFloors:
    """Works floors out once per job, in a thread: it reads every result of the job.

    Attributes:
        floors: by measure, see :func:`floors_of`.
    """

    def __init__(self, open_reader: Callable[[], AbstractContextManager[Reader]]) -> None:
        self._open_reader = open_reader
        self._looked_at: set[str] = set()
        self.floors: Mapping[str, float] = {}

    async def run(self, state: Callable[[], FarmState], next_change: Callable[[], asyncio.Event]) -> NoReturn:
        """Follow the farm until cancelled."""
        while True:
            change = next_change()
            done = [
                job
                for job in state().jobs.values()
                if job.state is JobState.DONE and job.job_id not in self._looked_at
            ]
            newest_first = sorted(done, key=lambda job: job.finished_at or 0.0, reverse=True)
            self._looked_at.update(job.job_id for job in done)
            for job in newest_first[:LOOK_BACK]:
                try:
                    found = await asyncio.to_thread(self._read, job.job_id)
                except Exception:  # a job whose results cannot be read must not end the others' metrics
                    logger.exception("the noise floors of job %s", job.job_id)
                    continue
                if found:
                    self.floors = found
                    break
            await change.wait()
            await asyncio.sleep(PERIOD_S)

    def _read(self, job_id: str) -> Mapping[str, float]:
        with self._open_reader() as reader:
            if not reader.spec(job_id).get("design"):
                return {}
            found = job_results(reader, job_id).summary.comparisons
        return floors_of(found) if found else {}


def floors_of(found: Comparisons) -> dict[str, float]:
    """The floor of each measure, over all phones where there are several: the last row of each."""
    return {
        re.sub(r"\W+", "_", row.measure.replace("'", "")): float(row.comparison.floor)
        for row in found.rows
        if row.comparison.floor is not None
    }
