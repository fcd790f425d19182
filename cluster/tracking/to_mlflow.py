"""MLflow, by its client, at MLFLOW_TRACKING_URI."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from cluster.tracking.tracker import DEFAULT_PROJECT, Outcome, Report, Step, Table, TrackedRun

METRICS_AT_ONCE = 1000
PARAMS_AT_ONCE = 100
PARAM_CHARS = 6000
"""What the protocol takes of each."""
STATUSES: dict[Outcome, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MLflow:
    """A metric's values are never replaced: of a step that is done again it keeps what it was told first."""

    overwrites = False

    def open(self, run: TrackedRun, known_as: str | None) -> str:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        if known_as is not None:
            self._id = known_as
            self._client.update_run(known_as, status="RUNNING")
            return known_as
        project = run.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_PROJECT
        experiment = self._client.get_experiment_by_name(project)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(project)
        self._id = str(self._client.create_run(experiment_id, run_name=run.name).info.run_id)
        params = [Param(name, str(value)[:PARAM_CHARS]) for name, value in run.settings.items()]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[first : first + PARAMS_AT_ONCE])
        self._client.log_text(self._id, run.settings_toml, "config.toml")
        return self._id

    def rewind(self, step: int) -> None:
        raise NotImplementedError

    def log_steps(self, steps: Sequence[Step]) -> None:
        self._log([self._one(name, value, step) for step in steps for name, value in step.values.items()])

    def log_held_out(self, evaluation: Step) -> None:
        self.log_steps([evaluation])

    def log_table(self, table: Table) -> None:
        rows = [[None if _is_nothing(value) else value for value in row] for row in table.rows]
        columns = {
            name: list(values) for name, values in zip(table.columns, zip(*rows, strict=True), strict=True)
        }
        self._client.log_table(self._id, data=columns, artifact_file=f"examples/step-{table.step:06d}.json")

    def log_report(self, report: Report) -> None:
        self._log([self._one(name, value, report) for name, value in report.values.items()])
        for path in report.files:
            self._client.log_artifact(self._id, str(path))

    def close(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, status=STATUSES[outcome])

    def _one(self, name: str, value: float, of: Step | Report) -> Any:
        return self._metric(name, value, int(of.time_s * 1e3), of.step)

    def _log(self, metrics: list[Any]) -> None:
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[first : first + METRICS_AT_ONCE])


def _is_nothing(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
