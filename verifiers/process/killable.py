"""A verifier in a child process that can be killed, so that no verifier can hang or kill its worker.

The protocol is JSON lines (with Python's NaN and Infinity) over the child's stdin and stdout:

    parent: {"name": "...", "settings": ..., "options": ..., "timeout_s": ...}    once: what `resolve` takes
    child:  {"ready": true, "keeps_time": ..., ...} | {"failed": "why"}           once, when it can judge
    parent: {"problem": {...}, "candidates": [[index, text], ...]}           one line for a whole group
    child:  {"verdicts": [[index, score, reward, status, latency_s, answer], ...],
             "error": "text of the latest exception" | null}             as many lines as it takes

The child's side is `verifiers/process/child.py`, the pipes are `verifiers/process/child_process.py`.

Verdicts are sent in batches, at most FLUSH_S apart; a line for each would cost more than judging.
So that the right candidate is blamed all the same, the child notes which candidate it is at, and
since when, in a page of memory shared with the parent. After a kill the verdicts that were not
sent yet (FLUSH_S worth of work) are simply made again. Of a verifier that judges whole groups no candidate
is to blame: if it fails or hangs, the verifier is at fault.

Measured in a virtual machine, countdown in groups of 32: 50,000 to 75,000 verdicts/s with parent and child on
one core or on two, depending on what else runs there; a quarter of the time goes into canonical answers.
A child is ready in 0.1 s, which is also what a restart costs. One that starts slowly (`Row.warm_spare`) has a spare
that waits beside it, so that a restart costs nothing as long as candidates hang for longer.

Covered: hanging, crashing, `sys.exit`, printing, reading stdin, a parent killed by SIGKILL (on
Linux; elsewhere an idle child ends, a hanging one stays), processes that a verifier started and
left in its process group, when the child is killed. Not covered: malice. It is no sandbox.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Self

from verifiers.config import VerifierConfig
from verifiers.process.child import IDLE
from verifiers.process.child_process import ChildProcess, VerifierStartError
from verifiers.types import CRASHED, REFUSED, Problem, Verdict

GRACE_S = 5.0
"""Beyond the time limit, for a verifier that keeps it itself, and for a child that has not begun."""
NOBODY = -1
"""In a count of deaths by candidate: those that are no candidate's."""


class VerifierProcess:
    """Judges candidates by one verifier in a child process, and replaces that process whenever it hangs or dies.

    Use it from one thread that lives as long as the object: Linux ends the child with the thread
    that started it.
    """

    def __init__(self, config: VerifierConfig, name: str) -> None:
        self._config = config
        self._name = name
        self._child: ChildProcess | None = None
        self._spare: ChildProcess | None = None
        self.last_error = ""
        """Why the latest `crashed` verdict or restart came about; empty if there was none."""
        self.num_restarts = 0
        """Children started after the first."""
        self._start()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._child.pid if self._child else None

    def judge(self, problem: Problem, completions: Sequence[str]) -> list[Verdict]:
        """One verdict for each completion, in order. Never raises for what a verifier does.

        A candidate that takes longer than `timeout_s` is a `timeout` (score -inf, reward 0). One on
        which the child dies is tried `retries` more times, then `crashed`; an exception is `crashed`
        at once. A verifier that judges the group at once and hangs or dies at it is tried as often,
        then all of the group is `crashed`; so it is if the child hangs or dies between candidates. A
        candidate at which a verifier hangs that keeps the time limit itself is `crashed`, too.
        """
        limit = self._config.max_candidate_chars
        verdicts: list[Verdict | None] = [REFUSED if len(text) > limit else None for text in completions]
        num_deaths: Counter[int] = Counter()
        while pending := [index for index, verdict in enumerate(verdicts) if verdict is None]:
            try:
                child = self._running_child()
            except VerifierStartError as error:
                self.last_error = str(error)
                for index in pending:
                    verdicts[index] = CRASHED
                break
            fault = self._judge_pending(child, problem, completions, verdicts, pending)
            if fault is None:
                continue
            index, running_s = child.kill()
            self._child = None
            cause = (
                f"no reply in {self._limit_s(child, index):g} s, killed"
                if fault == "timeout"
                else child.cause_of_death()
            )
            is_candidate = 0 <= index < len(verdicts) and verdicts[index] is None
            if not is_candidate:  # at a whole group, or between two candidates: the verifier is at fault
                self.last_error = f"verifier process: {cause}; at problem {problem.id!r}"
                num_deaths[NOBODY] += 1
                if num_deaths[NOBODY] > self._config.retries:
                    verdicts = [verdict or CRASHED for verdict in verdicts]
            elif fault == "timeout" and running_s >= self._config.timeout_s and not child.facts["keeps_time"]:
                verdicts[index] = Verdict(score=-math.inf, reward=0.0, status="timeout", latency_s=running_s)
            else:
                self.last_error = f"verifier process: {cause}; at candidate {index} of problem {problem.id!r}"
                num_deaths[index] += 1
                if num_deaths[index] > self._config.retries:
                    verdicts[index] = dataclasses.replace(CRASHED, latency_s=running_s)
        return [verdict for verdict in verdicts if verdict is not None]

    def close(self) -> None:
        """End the child."""
        for child in (self._child, self._spare):
            if child is not None:
                child.kill()
        self._child = self._spare = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running_child(self) -> ChildProcess:
        if self._child is not None and self._child.has_exited():
            self._child.kill()
            self.last_error = f"verifier process: {self._child.cause_of_death()}; between two groups"
            self._child = None
        if self._child is None:
            self.num_restarts += 1
            self._start()
            assert self._child is not None
        return self._child

    def _start(self) -> None:
        """A child that can judge: the spare where there is a good one. Raises VerifierStartError."""
        spare, self._spare, self._child = self._spare, None, None
        if spare is not None:
            with contextlib.suppress(VerifierStartError):  # a new one says why, if it cannot start either
                spare.wait_until_ready(self._config.startup_timeout_s)
                self._child = spare
        if self._child is None:
            child = ChildProcess(self._config, self._name)
            child.wait_until_ready(self._config.startup_timeout_s)
            self._child = child
        if self._child.facts["warm_spare"]:
            self._spare = ChildProcess(self._config, self._name)

    def _limit_s(self, child: ChildProcess, index: int) -> float:
        """Seconds that a child may be at a candidate, at a whole group, or on its way to either."""
        if child.facts["judges_groups"]:
            return self._config.batch_timeout_s
        if index == IDLE or child.facts["keeps_time"]:
            return self._config.timeout_s + GRACE_S
        return self._config.timeout_s

    def _judge_pending(
        self,
        child: ChildProcess,
        problem: Problem,
        completions: Sequence[str],
        verdicts: list[Verdict | None],
        pending: list[int],
    ) -> str | None:
        """Fill in verdicts until all are there (None), or the child died ("death") or hangs ("timeout")."""
        child.send(
            {
                "problem": {
                    "id": problem.id,
                    "prompt": problem.prompt,
                    "truth": dict(problem.truth),
                    "difficulty": problem.difficulty,
                    **({"turns": problem.turns} if problem.turns else {}),
                },
                "candidates": [[index, completions[index]] for index in pending],
            }
        )
        sent_at = time.monotonic()
        num_missing = len(pending)
        while num_missing:
            index, since = child.position()
            remaining_s = max(sent_at, since) + self._limit_s(child, index) - time.monotonic()
            # Not longer than a candidate may take: by then it may be at one, for which another limit holds.
            messages = child.exchange(max(0.0, min(remaining_s, self._config.timeout_s)))
            if messages is None:
                return "death"
            if not messages and remaining_s <= 0:  # a parent that was itself held up reads before it judges
                return "timeout"
            for message in messages:
                for index, score, reward, status, latency_s, answer in message["verdicts"]:
                    verdicts[index] = Verdict(
                        score=score, reward=reward, status=status, latency_s=latency_s, answer=answer
                    )
                    num_missing -= 1
                self.last_error = message["error"] or self.last_error
        return None
