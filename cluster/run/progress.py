"""How far the run is and how fast: the facts of each step, for disk, endpoint and console."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from actors.types import GroupFacts
from learner.types import StepResult

NUM_RECENT_STEPS = 20
NUM_STAGE_STEPS = 5
LOG_EVERY_S = 30.0

logger = logging.getLogger(__name__)


class Progress:
    """Counts samples between steps and turns a finished step into facts. Pure but for the clock and the log."""

    def __init__(self, *, steps: int) -> None:
        self._steps = steps
        self._started_s = self._last_step_at_s = time.monotonic()
        self._recent_step_s: deque[float] = deque(maxlen=NUM_RECENT_STEPS)
        self._recent_clipped: deque[float] = deque(maxlen=NUM_RECENT_STEPS)
        self._recent_stages: deque[tuple[float, float, float]] = deque(maxlen=NUM_STAGE_STEPS)
        self._num_tokens = self._num_sequences = 0
        self._group_s: list[float] = []
        self._logged_s = float("-inf")
        self._waited_s = 0.0
        self._waiting_since_s: float | None = None
        self.newest_wait_s = 0.0
        """How long the learner has waited since it worked last."""
        self.newest: dict[str, Any] = {}
        """The facts of the newest step; empty before the first."""

    @property
    def since_last_step_s(self) -> float:
        return time.monotonic() - self._last_step_at_s

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    @property
    def usual_step_s(self) -> float | None:
        """Mean seconds of the recent steps; None before there is one."""
        return float(np.mean(self._recent_step_s)) if self._recent_step_s else None

    def time_left_s(self, step: int) -> float | None:
        """Seconds until the last step, from the pace of the recent ones; None before there is one."""
        usual_s = self.usual_step_s
        return None if usual_s is None else (self._steps - step) * usual_s

    @property
    def waited_s(self) -> float:
        """Seconds the learner has waited for batches, a wait under way included."""
        since_s = self._waiting_since_s
        return self._waited_s + (0.0 if since_s is None else time.monotonic() - since_s)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The learner waits for a batch in this block."""
        before_s = self._waited_s
        self._waiting_since_s = time.monotonic()
        try:
            yield
        finally:
            self._waited_s, self._waiting_since_s = self.waited_s, None
            self.newest_wait_s += self._waited_s - before_s

    def end_wait(self) -> None:
        """The learner has worked."""
        self.newest_wait_s = 0.0

    def shares(self) -> tuple[float, float] | None:
        """Of the newest steps' time: the learner's wait for batches, and for verdicts alone; None before there is one."""
        if not self._recent_stages:
            return None
        step_s, wait_s, verify_s = map(sum, zip(*self._recent_stages, strict=True))
        return wait_s / step_s, verify_s / step_s

    def sampled(self, group: GroupFacts) -> None:
        self._num_tokens += group.num_tokens
        self._num_sequences += group.num_samples

    def judged(self, seconds: float) -> None:
        """A group has its verdicts, so many seconds after it was leased."""
        self._group_s.append(seconds)

    def finish_step(self, step: StepResult, about: dict[str, float]) -> dict[str, Any]:
        """The step's facts: the learner's, of its batch too, and what the loop knows `about` it: seconds spent in its
        stages.

        `clipped_fraction`: share of the newest NUM_RECENT_STEPS steps, this one included, whose gradient was clipped.
        """
        self.end_wait()
        step_s = self.since_last_step_s
        self._last_step_at_s += step_s
        if self.newest:  # the first step's time is mostly the engines' start
            self._recent_step_s.append(step_s)
            self._recent_stages.append((step_s, about["wait_s"], about["verify_s"]))
        self._recent_clipped.append(step.facts["clipped"])
        self.newest = {
            "step": step.version,
            "version": step.version,
            "time": time.time(),
            **step.facts,
            "clipped_fraction": float(np.mean(self._recent_clipped)),
            "step_s": step_s,
            **about,
            "tokens_per_s": self._num_tokens / step_s,
            "sequences_per_s": self._num_sequences / step_s,
            **self._group_facts(),
        }
        self._num_tokens = self._num_sequences = 0
        self._group_s = []
        if time.monotonic() > self._logged_s + LOG_EVERY_S:
            self._logged_s = time.monotonic()
            pass_at_k = f"pass@{self.newest['num_select']:.0f} {self.newest['pass_at_n']:.3f}"
            logger.info(
                "step %d/%d: reward %.3f, %s", step.version, self._steps, self.newest["reward"], pass_at_k
            )
        return self.newest

    def _group_facts(self) -> dict[str, float]:
        """From lease to verdict: quantiles over the groups that were judged since the last step."""
        if not self._group_s:  # all were judged before
            return {name: self.newest.get(name, 0.0) for name in ("group_p50_s", "group_p95_s")}
        p50, p95 = np.quantile(self._group_s, [0.5, 0.95])
        return {"group_p50_s": float(p50), "group_p95_s": float(p95)}
