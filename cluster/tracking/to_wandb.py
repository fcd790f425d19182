"""Weights & Biases, by `wandb`: online, or in RUN_DIR/wandb alone with WANDB_MODE=offline."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence

from cluster.tracking.tracker import DEFAULT_PROJECT, Outcome, Report, Step, Table, TrackedRun


class Wandb:
    """Its history only grows: of a step that is done again it keeps what it was told first."""

    overwrites = False

    def open(self, run: TrackedRun, known_as: str | None) -> str:
        import wandb

        self._wandb = wandb
        known_as = known_as or uuid.uuid4().hex[:8]
        self._run = wandb.init(
            project=run.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            name=run.name,
            id=known_as,
            resume="allow",
            dir=str(run.run_dir),
            config=dict(run.settings),
            settings=wandb.Settings(console="off", silent=True),
        )
        return known_as

    def rewind(self, step: int) -> None:
        raise NotImplementedError

    def log_steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._run.log({**step.values, "_timestamp": step.time_s}, step=step.step)

    def log_held_out(self, evaluation: Step) -> None:
        """At its newest step, for it takes none that lies before it; `held_out/step` is that of the evaluation."""
        values = {**evaluation.values, "held_out/step": evaluation.step, "_timestamp": evaluation.time_s}
        self._run.log(values, step=max(evaluation.step, self._run.step))

    def log_table(self, table: Table) -> None:
        examples = self._wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
        self._run.log({"examples": examples, "_timestamp": table.time_s}, step=table.step)

    def log_report(self, report: Report) -> None:
        self._run.summary.update(dict(report.values))
        for path in report.files:
            if path.suffix == ".png":
                picture = self._wandb.Image(str(path))
                self._run.log({path.stem: picture, "_timestamp": report.time_s}, step=report.step)
            else:
                self._run.save(str(path), base_path=str(path.parent), policy="now")

    def close(self, outcome: Outcome) -> None:
        self._run.finish(exit_code=int(outcome == "failed"))
