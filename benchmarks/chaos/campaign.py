"""Faults at random moments, one after the other or over each other, and when each of them was overcome."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.worker_faults import NOTICED, Course
from benchmarks.chaos.world import NoVictimError, World

TICK_S = 0.1
MAX_AT_ONCE = 3
PAUSE_S = (0.2, 3.0)
"""Between a fault, or the moment from which another may strike, and the next."""
NO_VICTIM_PAUSE_S = 0.5
OVERLAPPING = 0.5
"""Share of faults after which the next does not wait until all is well."""
WARM_UP_STEPS = 10
BEGIN_TIMEOUT_S = 600.0
FINISH_TIMEOUT_S = 180.0


@dataclass(slots=True, kw_only=True)
class Strike:
    """One fault. Times in seconds of the monotonic clock; 0: not yet."""

    name: str
    course: Course
    bound_s: float
    struck_s: float
    struck_time: float
    """The same by the time of day, as metrics.jsonl has it."""
    noticed_s: float = 0.0
    recovered_s: float = 0.0

    def go_on(self) -> None:
        """One look at whether it is noticed, and overcome."""
        try:
            if next(self.course) == NOTICED:
                self.noticed_s = time.monotonic()
        except StopIteration:
            self.recovered_s = time.monotonic()

    @property
    def took_s(self) -> float:
        return (self.recovered_s or time.monotonic()) - self.struck_s

    @property
    def is_late(self) -> bool:
        return self.took_s > self.bound_s


class Campaign:
    """Strikes in the order of `names`. `calm`: one fault at a time. `say` hears what happens.

    `patience` multiplies the faults' bounds.
    """

    def __init__(
        self,
        world: World,
        names: Sequence[str],
        *,
        calm: bool,
        patience: float,
        max_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._world = world
        self._names = list(names)
        self._total = len(names)
        self._calm = calm
        self._patience = patience
        self._max_s = max_s
        self._say = say
        self._active: list[Strike] = []
        self._next_s = self._begun_s = 0.0
        self._waits = False
        self.strikes: list[Strike] = []

    def run(self) -> None:
        """Until all have struck and are overcome, or `max_s` are over, or one is not overcome in its time.

        Raises RuntimeError when the run does not even begin.
        """
        self._begin()
        self._begun_s = time.monotonic()
        ends_s = self._begun_s + self._max_s
        while self._active or (self._names and time.monotonic() < ends_s):
            self._world.mend()
            for strike in list(self._active):
                strike.go_on()
                if strike.recovered_s:
                    self._active.remove(strike)
                    self._say(f"   recovered after {strike.took_s:5.1f} s   {strike.name}")
            if any(strike.is_late for strike in self._active):
                late = next(strike for strike in self._active if strike.is_late)
                self._say(f"   NOT recovered within {late.bound_s:g} s   {late.name}")
                return
            if self._names and self._may_strike() and time.monotonic() < ends_s:
                self._strike()
            time.sleep(TICK_S)

    def close(self) -> None:
        """Give back what faults still hold."""
        for strike in self._active:
            strike.course.close()  # type: ignore[attr-defined]

    def _begin(self) -> None:
        ends_s = time.monotonic() + BEGIN_TIMEOUT_S
        while not (self._world.is_whole and self._world.step >= WARM_UP_STEPS):
            if time.monotonic() > ends_s:
                raise RuntimeError(f"the run does not begin: {self._world.driver.last_words()}")
            self._world.mend()
            time.sleep(TICK_S)

    def _may_strike(self) -> bool:
        if self._waits and (self._active or not self._world.is_whole):
            return False
        alone = FAULTS[self._names[0]].alone or any(FAULTS[strike.name].alone for strike in self._active)
        if self._active and (alone or len(self._active) >= MAX_AT_ONCE):
            return False
        return time.monotonic() > self._next_s

    def _strike(self) -> None:
        name = self._names.pop(0)
        course = FAULTS[name].act(self._world)
        struck_s, struck_time = time.monotonic(), time.time()
        try:
            victim = next(course)
        except NoVictimError:  # it will have one later
            self._names.insert(self._world.random.randint(0, len(self._names)), name)
            self._next_s = time.monotonic() + NO_VICTIM_PAUSE_S
            return
        strike = Strike(
            name=name,
            course=course,
            bound_s=FAULTS[name].bound_s * self._patience,
            struck_s=struck_s,
            struck_time=struck_time,
        )
        self.strikes.append(strike)
        self._active.append(strike)
        self._say(f"{len(self.strikes):3}/{self._total}  step {self._world.best_step:5}   {name}: {victim}")
        is_behind = (struck_s - self._begun_s) * self._total > len(self.strikes) * self._max_s
        self._waits = self._calm or (self._world.random.random() > OVERLAPPING and not is_behind)
        self._next_s = time.monotonic() + self._world.random.uniform(*PAUSE_S)


def longest_wait_s(run_dir: Path, strike: Strike) -> float:
    """Seconds that the learner waited for a batch at most, in the steps between a fault and the fifth after it."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    recovered_time = strike.struck_time + strike.took_s
    rows = [json.loads(line) for line in lines]
    after = [row for row in rows if row["time"] > strike.struck_time]
    during = [row["wait_s"] for row in after if row["time"] < recovered_time]
    return max([*during, *(row["wait_s"] for row in after[:5])], default=0.0)
