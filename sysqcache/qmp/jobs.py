# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP background jobs: started, awaited, dismissed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from sysqcache.base.errors import QmpError
from sysqcache.qmp.client import DEFAULT_TIMEOUT, QmpClient

_POLL: Final = 0.5


def run_job(
    qmp: QmpClient,
    command: str,
    job_id: str,
    arguments: Mapping[str, object],
    *,
    timeout: float = 300.0,
) -> None:
    """Start a job with ``command`` and wait for its success.

    Raises :class:`QmpError` when it fails or takes longer than ``timeout`` seconds; a
    job that still runs is cancelled then. No job is left behind.
    """
    position = qmp.events.position
    # QEMU moves a whole machine in one go, and answers nobody meanwhile
    qmp.execute(command, {"job-id": job_id, **arguments}, timeout=timeout)
    deadline = time.monotonic() + timeout
    while (job := find_job(qmp, job_id, timeout=timeout)) is not None:
        if job["status"] in ("concluded", "null"):
            qmp.execute("job-dismiss", {"id": job_id}, timeout=timeout)
            if error := job.get("error"):
                raise QmpError(f"the job {command} failed: {error}")
            return
        left = deadline - time.monotonic()
        if left <= 0:
            qmp.execute("job-cancel", {"id": job_id})
            raise QmpError(f"the job {command} took longer than {timeout:g} s")
        event = qmp.events.wait({"JOB_STATUS_CHANGE"}, min(left, _POLL), position)
        position = event.number if event is not None else position


def find_job(
    qmp: QmpClient, job_id: str, *, timeout: float = DEFAULT_TIMEOUT
) -> dict[str, Any] | None:
    """The job as QEMU lists it, None when it is gone."""
    jobs: list[dict[str, Any]] = qmp.execute("query-jobs", timeout=timeout)
    return next((job for job in jobs if job["id"] == job_id), None)
