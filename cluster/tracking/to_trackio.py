"""Trackio: local, or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.tracking.tracker import DEFAULT_PROJECT, Outcome, Report, Step, Table, TrackedRun


class Trackio:
    """Of a step that is done again it keeps what it was told first: a second line would stand beside it."""

    overwrites = False

    def open(self, run: TrackedRun, known_as: str | None) -> str:
        import trackio

        self._trackio = trackio
        name = known_as or run.name
        self._run = trackio.init(
            project=run.project or DEFAULT_PROJECT,
            name=name,
            config=dict(run.settings),
            resume="allow" if known_as else "never",
            embed=False,
        )
        return name

    def rewind(self, step: int) -> None:
        raise NotImplementedError

    def log_steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._run.log(dict(step.values), step=step.step)

    def log_held_out(self, evaluation: Step) -> None:
        self.log_steps([evaluation])

    def log_table(self, table: Table) -> None:
        rows = [list(row) for row in table.rows]
        examples = self._trackio.Table(columns=list(table.columns), data=rows)
        self._run.log({"examples": examples}, step=table.step)

    def log_report(self, report: Report) -> None:
        self._run.log(dict(report.values), step=report.step)

    def close(self, outcome: Outcome) -> None:
        self._run.finish()
