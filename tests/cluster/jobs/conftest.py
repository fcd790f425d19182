"""A cluster with runs and a dashboard, where none is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.jobs import find_run, ray_jobs
from tests.shared.dashboards import Jobs


@pytest.fixture
def on_cluster(monkeypatch) -> Callable[..., None]:
    """A cluster on which these runs have controllers, and that has this dashboard."""

    def make(training: list[str], dashboard: Jobs | None) -> None:
        monkeypatch.setattr(find_run, "names_on", lambda address: training)
        monkeypatch.setattr(find_run, "dashboard_of", lambda address: dashboard and "http://head:8265")
        monkeypatch.setattr(ray_jobs, "connect", lambda address: dashboard)

    return make
