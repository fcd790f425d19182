"""What a process may do that runs in a Ray job."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.jobs.entrypoint import check_outlives_job


def test_in_a_job_a_relative_directory_of_results_is_refused(monkeypatch):
    check_outlives_job(Path("runs/a"), "run_dir")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    check_outlives_job(Path("/shared/runs/a"), "run_dir")
    for name in ("run_dir", "model", "--out"):
        with pytest.raises(ValueError, match=f"^{name} = 'runs/a' is relative: in a Ray job"):
            check_outlives_job(Path("runs/a"), name)
