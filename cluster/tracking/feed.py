"""One tracker's thread: it reads what the run left on disk and tells it, at the tracker's own pace.

The run directory is the queue. A tracker that is slow, fails or hangs falls behind there and nowhere else: no memory
fills, and neither the run nor another tracker waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from cluster.config.tracking import TrackingConfig
from cluster.run_directory.held_out import FILE as HELD_OUT_FILE
from cluster.tracking.examples import read_examples, trajectories_of
from cluster.tracking.reports import read_report, report_time_s
from cluster.tracking.state import State
from cluster.tracking.steps import Mark, StepReader, held_out_quantities, quantities
from cluster.tracking.tracker import Outcome, Step, TrackedRun, Tracker

LOOK_EVERY_S = 1.0
STEPS_AT_ONCE = 16
MAX_TRIES = 8
LONGEST_PAUSE_S = 60.0
"""Pauses between tries double up to it: eight take about four minutes."""
WAIT_FOR_TRAJECTORIES_S = 10.0
"""They are written right after the step's metrics."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What the feeds of a run share."""

    run: TrackedRun
    config: TrackingConfig
    resumed_from: int
    since_s: float
    """When the driver began this run, or went on with it."""


class Feed(threading.Thread):
    """Tells one tracker, until `end` and all is told."""

    def __init__(
        self, name: str, tracker: Tracker, followed: Followed, state: State, note: Callable[[str], None]
    ) -> None:
        """`note` hears a line for the user; a failure is said once."""
        super().__init__(name=f"feed-{name}", daemon=True)
        self.tracker_name = name
        self._tracker = tracker
        self._followed = followed
        self._state = state
        self._note = note
        self._run_dir: Path = followed.run.run_dir
        reader = partial(StepReader, resumed_from=followed.resumed_from, since_s=followed.since_s)
        self._reader = reader(self._run_dir / "metrics.jsonl", values_of=quantities)
        self._evaluations = reader(self._run_dir / HELD_OUT_FILE, values_of=held_out_quantities)
        self._ending = threading.Event()
        self._outcome: Outcome = "failed"
        self._has_told_of_failure = False
        self._table_due: int | None = None
        self._evaluation: Step | None = None
        """Read, and not told yet."""
        self.call_since_s: float | None = None
        """When the call of the library began that has not returned yet."""
        self.has_told_of_hang = False

    def end(self, outcome: Outcome) -> None:
        """Nothing more comes: tell what is left, then close the tracker."""
        self._outcome = outcome
        self._ending.set()

    def run(self) -> None:
        self._persist(self._open, "begin", is_needed=True)
        while True:
            is_last = self._ending.is_set()  # before it looks: what comes later is not missed
            if self._tell():
                continue
            if is_last:
                break
            self._ending.wait(LOOK_EVERY_S)
        self._persist(lambda: self._tracker.close(self._outcome), "finish")

    def _open(self) -> None:
        told = self._state.told(self.tracker_name)
        known_as = self._tracker.open(self._followed.run, told.known_as)
        if told.known_as is not None and self._tracker.overwrites:
            self._tracker.rewind(told.mark.step)  # of what it took last, the mark may not have been written
        self._state.update(self.tracker_name, known_as=known_as)

    def _tell(self) -> bool:
        """The next piece, if there is one."""
        if self._table_due is not None:
            return self._tell_table(self._table_due)
        if self._tell_held_out():
            return True
        mark, overwrites = self._mark, self._tracker.overwrites
        steps = list(islice(self._up_to_what_follows(mark), STEPS_AT_ONCE))
        if steps:
            if overwrites and steps[0].step <= mark.step:
                first = steps[0].step
                self._persist(lambda: self._tracker.rewind(first - 1), f"rewind to step {first - 1}")
                self._forget_evaluations(after=first - 1)
            what = f"steps {steps[0].step} to {steps[-1].step}"
            self._persist(lambda: self._tracker.log_steps(steps), what, num_pieces=len(steps))
            self._state.update(self.tracker_name, mark=Mark(step=steps[-1].step, time_s=steps[-1].time_s))
            if self._has_table(steps[-1].step):
                self._table_due = steps[-1].step
            return True
        return self._tell_report()

    def _up_to_what_follows(self, mark: Mark) -> Iterator[Step]:
        """Fresh steps, the last of them the first with a table, or with an evaluation that is there already."""
        for step in self._reader.fresh(mark, overwrites=self._tracker.overwrites):
            yield step
            if self._has_table(step.step) or (self._evaluation and self._evaluation.step <= step.step):
                return

    def _has_table(self, step: int) -> bool:
        every = self._followed.config.examples_every
        return every > 0 and step % every == 0

    def _tell_table(self, step: int) -> bool:
        deadline_s = time.monotonic() + WAIT_FOR_TRAJECTORIES_S
        while not (is_there := trajectories_of(self._run_dir, step).exists()):
            if time.monotonic() > deadline_s or self._ending.is_set() or self._is_beyond(step):
                break
            time.sleep(0.1)
        self._table_due = None
        if not is_there:  # rewound, or the run ended between the two
            return True

        def tell() -> None:
            self._tracker.log_table(read_examples(self._run_dir, step, self._followed.config))

        self._persist(tell, f"the table of step {step}")
        return True

    def _is_beyond(self, step: int) -> bool:
        return trajectories_of(self._run_dir, step + 1).exists()

    def _tell_held_out(self) -> bool:
        """The next evaluation, if its step is told."""
        mark = self._state.told(self.tracker_name).held_out
        if self._evaluation is None:
            self._evaluation = next(self._evaluations.fresh(mark, overwrites=False), None)
        evaluation = self._evaluation
        if evaluation is None or evaluation.step > self._mark.step:
            return False
        self._evaluation = None
        what = f"the evaluation of step {evaluation.step}"
        self._persist(lambda: self._tracker.log_held_out(evaluation), what)
        told = Mark(step=evaluation.step, time_s=evaluation.time_s)
        self._state.update(self.tracker_name, held_out=told)
        return True

    def _forget_evaluations(self, *, after: int) -> None:
        """The tracker has, with the steps: those that the run makes again are told again."""
        mark = self._state.told(self.tracker_name).held_out
        if mark.step > after:
            self._state.update(self.tracker_name, held_out=Mark(step=after))

    def _tell_report(self) -> bool:
        written_s = report_time_s(self._run_dir)
        if written_s <= self._state.told(self.tracker_name).report_time_s:
            return False
        newest = self._mark.step
        self._persist(lambda: self._tracker.log_report(read_report(self._run_dir, newest)), "the report")
        self._state.update(self.tracker_name, report_time_s=written_s)
        return True

    @property
    def _mark(self) -> Mark:
        return self._state.told(self.tracker_name).mark

    def _persist(
        self, call: Callable[[], None], what: str, *, num_pieces: int = 1, is_needed: bool = False
    ) -> None:
        """Call until it succeeds, MAX_TRIES times at most unless it `is_needed`; then its pieces are dropped, and counted."""
        pause_s = 1.0
        tries = 0
        while True:
            tries += 1
            self.call_since_s = time.monotonic()
            try:
                call()
            except Exception as error:
                logger.exception("%s cannot %s", self.tracker_name, what)
                self._say_failure(what, error)
            else:
                return
            finally:
                self.call_since_s = None
            if tries >= MAX_TRIES and not is_needed:
                break
            self._ending.wait(pause_s) if not self._ending.is_set() else time.sleep(min(pause_s, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        dropped = self._state.told(self.tracker_name).dropped + num_pieces
        self._state.update(self.tracker_name, dropped=dropped)

    def _say_failure(self, what: str, error: Exception) -> None:
        if self._has_told_of_failure:
            return
        self._has_told_of_failure = True
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        self._note(
            f"tracking: {self.tracker_name} fails ({what}: {reason}); the run goes on, it is tried again, and "
            "tracking.log has the rest"
        )
