# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP background jobs: started, awaited, dismissed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from sysqcache.base import interrupts
from sysqcache.base.errors import QmpError
from sysqcache.qmp.client import DEFAULT_TIMEOUT, QmpClient

_POLL: Final = 0.5
_PAUSE: Final = 0.05


def run_job(
    qmp: QmpClient,
    command: str,
    job_id: str,
    arguments: Mapping[str, object],
    *,
    timeout: float = 300.0,
    keep_failed: bool = False,
) -> None:
    """Start a job with ``command`` and wait for its success.

    Raises :class:`QmpError` when it fails or takes longer than ``timeout`` seconds; a
    job that still runs is cancelled then. No job is left behind, nor one that a command left
    which was killed.

    :param keep_failed: QEMU remembers a failure, for who comes after the one who has to act.
    """
    forget_job(qmp, job_id, timeout=timeout)
    try:
        _run(qmp, command, job_id, arguments, timeout, keep_failed=keep_failed)
    except KeyboardInterrupt:
        interrupts.take()
        forget_job(qmp, job_id, timeout=timeout)
        raise


def _run(
    qmp: QmpClient,
    command: str,
    job_id: str,
    arguments: Mapping[str, object],
    timeout: float,
    *,
    keep_failed: bool,
) -> None:
    position = qmp.events.position
    # QEMU moves a whole machine in one go, and answers nobody meanwhile
    qmp.execute(command, {"job-id": job_id, **arguments}, timeout=timeout)
    deadline = time.monotonic() + timeout
    while (job := find_job(qmp, job_id, timeout=timeout)) is not None:
        interrupts.check()
        if job["status"] in ("concluded", "null"):
            error = job.get("error")
            if not (error and keep_failed):
                qmp.execute("job-dismiss", {"id": job_id}, timeout=timeout)
            if error:
                raise QmpError(f"the job {command} failed: {error}")
            return
        left = deadline - time.monotonic()
        if left <= 0:
            qmp.execute("job-cancel", {"id": job_id})
            raise QmpError(f"the job {command} took longer than {timeout:g} s")
        event = qmp.events.wait({"JOB_STATUS_CHANGE"}, min(left, _POLL), position)
        position = event.number if event is not None else position


def forget_job(qmp: QmpClient, job_id: str, *, timeout: float = 300.0) -> str:
    """Wait for the end of a job that nobody waits for, if there is one; its error or "".

    Raises :class:`QmpError` when it does not end.
    """
    deadline, error = time.monotonic() + timeout, ""
    while (job := find_job(qmp, job_id, timeout=timeout)) is not None:
        if job["status"] == "concluded":
            error = str(job.get("error", ""))
            qmp.execute("job-dismiss", {"id": job_id}, timeout=timeout)
        elif time.monotonic() > deadline:
            raise QmpError(f"the job {job_id} that another command began does not end")
        else:
            time.sleep(_PAUSE)
    return error


def find_job(
    qmp: QmpClient, job_id: str, *, timeout: float = DEFAULT_TIMEOUT
) -> dict[str, Any] | None:
    """The job as QEMU lists it, None when it is gone."""
    jobs: list[dict[str, Any]] = qmp.execute("query-jobs", timeout=timeout)
    return next((job for job in jobs if job["id"] == job_id), None)
