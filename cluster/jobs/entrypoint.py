"""This process as the entrypoint of a Ray job, where it is one."""

from __future__ import annotations

import json
import os
from pathlib import Path

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for a job's entrypoint: its runtime environment and metadata."""


def job_metadata() -> dict[str, str] | None:
    """What Ray knows of the job whose entrypoint this process is; None outside a job."""
    text = os.environ.get(JOB_VARIABLE)
    return dict(json.loads(text).get("metadata", {})) if text else None


def check_outlives_job(directory: Path, name: str) -> None:
    """Raises ValueError for a directory, of results, inside the package that Ray unpacked for a job; `name`: its setting."""
    if job_metadata() is not None and not directory.is_absolute():
        raise ValueError(
            f"{name} = {str(directory)!r} is relative: in a Ray job that is the unpacked upload, which Ray deletes; "
            f"set {name} to an absolute path that all nodes see, for example /shared/runs/my-run"
        )
