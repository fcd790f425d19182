"""TensorBoard: event files in RUN_DIR/tensorboard, by the `tensorboard` package's own writer, without torch."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Any

from cluster.tracking.tracker import Outcome, Report, Step, Table, TrackedRun

DIRECTORY = "tensorboard"


class TensorBoard:
    """A step told of again replaces the former, by TensorBoard's own rule for runs that begin anew."""

    overwrites = True

    def open(self, run: TrackedRun, known_as: str | None) -> str:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary, self._text = event_pb2, summary_pb2, text_pb
        directory = run.run_dir / DIRECTORY
        self._writer = EventFileWriter(str(directory), flush_secs=5)
        if known_as is None:
            self.rewind(-1)  # TensorBoard takes the first of these for a beginning, whatever its step
            self._add(0, time.time(), text_pb("settings", f"```\n{run.settings_toml}\n```"))
        return str(directory.name)

    def rewind(self, step: int) -> None:
        log = self._event.SessionLog(status=self._event.SessionLog.START)
        self._writer.add_event(self._event.Event(wall_time=time.time(), step=step + 1, session_log=log))

    def log_steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._add(step.step, step.time_s, self._scalars(step.values))
        self._writer.flush()

    def log_held_out(self, evaluation: Step) -> None:
        self.log_steps([evaluation])

    def log_table(self, table: Table) -> None:
        self._add(table.step, table.time_s, self._text("examples", _markdown(table)))
        self._writer.flush()

    def log_report(self, report: Report) -> None:
        self._add(report.step, report.time_s, self._scalars(report.values))
        for path in report.files:
            content = path.read_bytes()
            if path.suffix == ".png":
                width, height = struct.unpack(">II", content[16:24])
                image = self._summary.Summary.Image(
                    encoded_image_string=content, width=width, height=height, colorspace=4
                )
                summary = self._summary.Summary()
                summary.value.add(tag=path.stem, image=image)
                self._add(report.step, report.time_s, summary)
        self._writer.flush()

    def close(self, outcome: Outcome) -> None:
        self._writer.close()

    def _scalars(self, values: Any) -> Any:
        summary = self._summary.Summary()
        for tag, value in values.items():
            summary.value.add(tag=tag, simple_value=value)
        return summary

    def _add(self, step: int, time_s: float, summary: Any) -> None:
        self._writer.add_event(self._event.Event(wall_time=time_s, step=step, summary=summary))


def _markdown(table: Table) -> str:
    """A table of Markdown: nothing of a text may end its cell or its line."""
    lines = [" | ".join(table.columns), " | ".join("---" for _ in table.columns)]
    lines += [" | ".join(_cell(value) for value in row) for row in table.rows]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    for old, new in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("\r", ""), ("\n", "<br>")):
        text = text.replace(old, new)
    return text
