"""What goes wrong in a run: said, counted, and ended where it goes on. Knows no Ray."""

from __future__ import annotations

import logging
import statistics
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cluster.config.schema import RunConfig
from cluster.fleet.calls import Halt, WorkerLost
from cluster.fleet.stored import JudgedGroup, StoredGroup
from cluster.run.nothing_learned import NothingLearned
from learner.types import STALENESS_WARNING, WorkerParity, staleness_ratio

STARVING_S = 60.0
NUM_STALE_STEPS = 10
ROUNDING_UNCERTAINTY = 0.25
"""By what share the rounding of the samples trained on may differ from that of the samples it is measured on."""
NUM_SILENT_GROUPS = 50
"""Groups in a row without one candidate that was judged, from which on the verifier's settings are suspect."""
NUM_UNCOMPARED_STEPS = 20
NUM_PARITY_TOKENS = 1024
"""Tokens of one engine that are judged together; fewer may be unlike by chance (docs/off-policy.md#parity)."""

logger = logging.getLogger(__name__)


class Streak:
    """Failures without a success between. Workers that were there when the last one that counts was lost were lost
    with it, as on a node that is gone: they count no more.
    """

    def __init__(self) -> None:
        self.length = 0
        self._counted_s = float("-inf")

    def add(self, made_s: float = float("inf")) -> None:
        """A failure; of a worker made at `made_s` by the monotonic clock."""
        if made_s > self._counted_s:
            self.length += 1
            self._counted_s = time.monotonic()

    def end(self) -> None:
        """Something succeeded, so that what failed before was passing."""
        self.length = 0


class Health:
    """The events of a run. Every `note_` and `check_` that finds too much raises Halt with a message."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._failures = Streak()
        self._is_ending = False
        self._parity: dict[str, WorkerParity] = {}
        self._num_uncompared = 0
        self._shifts: deque[float] = deque(maxlen=NUM_STALE_STEPS)
        self._is_stale = False
        self._silent: Counter[str] = Counter()
        self._num_silent = 0
        self._num_judged = 0
        self._is_silent = False
        self._nothing_learned = NothingLearned(config)
        self._told_starving_s = 0.0
        self.events: list[str] = []

    def note(self, message: str) -> None:
        """Something the user should know; no failure."""
        logger.warning("%s", message)
        self.events.append(f"{time.strftime('%H:%M:%S')} {message}")

    def note_ending(self) -> None:
        """From now on no group is begun, so that none can show that a failure was a passing one: none counts."""
        self._is_ending = True

    def note_success(self) -> None:
        """A group is finished, so failures before it were passing ones."""
        self._failures.end()

    def note_lost(self, error: WorkerLost) -> None:
        """A worker was lost. Its fleet judges failed starts: others that serve may finish no group meanwhile."""
        if error.is_failed_start:
            self.note(str(error))
        else:
            self.note_failure(str(error), error.made_s)

    def note_failure(self, message: str, made_s: float = float("inf")) -> None:
        """A worker, made at `made_s`, was lost, or did not do its work."""
        self.note(message)
        if self._is_ending:
            return
        self._failures.add(made_s)
        if self._failures.length >= self._config.train.max_consecutive_failures:
            raise Halt(
                f"{self._failures.length} failures in a row without a finished group; the last: {message}"
            )

    def note_gone(self, groups: Sequence[StoredGroup]) -> None:
        """Samples of these groups, of one batch, are lost; those of one node are one failure, as its workers are."""
        numbers = ", ".join(str(group.facts.group) for group in groups)
        workers = ", ".join(groups[0].facts.workers)
        self.note_failure(
            f"samples of {workers} are lost with the node they were on: groups {numbers} are sampled again",
            groups[0].since_s,
        )

    def note_unjudged(self, problem_id: str, error: str, *, is_new: bool) -> None:
        """The verifier failed on a group of a problem. Only a problem on which it has not failed before (`is_new`) counts
        as a failure of the run: one bad problem is set aside, a bad verifier fails on many.
        """
        message = f"verifier {self._config.verifier.label} fails on problem {problem_id}: {error}"
        if is_new:
            self.note_failure(message)
        else:
            self.note(message)

    def check_statuses(self, statuses: Sequence[str]) -> None:
        """A group's statuses: a run in which no candidate is judged trains on zeros.

        NUM_SILENT_GROUPS groups of candidates that are too slow or refused end the run. Where most of them only
        lack the expected format, a policy may have that still to learn: it is said once.
        """
        if "ok" in statuses:
            self._num_silent = 0
            self._silent.clear()
            self._num_judged += 1
            if self._num_judged >= NUM_SILENT_GROUPS:  # sooner it would be said again and again
                self._is_silent = False
            return
        self._num_judged = 0
        self._num_silent += 1
        self._silent.update(statuses)
        if self._num_silent < NUM_SILENT_GROUPS:
            return
        verifier = self._config.verifier
        counts = ", ".join(f"{count} {status}" for status, count in self._silent.most_common())
        message = (
            f"verifier {verifier.label} judged no candidate of the last {NUM_SILENT_GROUPS} groups ({counts})"
        )
        if 2 * self._silent["wrong_format"] > self._silent.total():
            if not self._is_silent:
                self.note(
                    f"{message}: see in trajectories/ what is sampled, and whether the prompt asks for the format"
                )
            self._num_silent, self._is_silent = 0, True
            self._silent.clear()
            return
        limits = [f"verifier.timeout_s = {verifier.timeout_s:g}"]
        if self._silent["too_large"]:
            limits.append(f"verifier.python_tests.output_kib = {verifier.python_tests.output_kib}")
        limits.append(f"verifier.max_candidate_chars = {verifier.max_candidate_chars}")
        raise Halt(f"{message}: raise {', '.join(limits[:-1])} or {limits[-1]}, or mend the verifier")

    def check_starving(
        self, starving_s: float, *, usual_s: float, num_scored: int, num_queued: int, held: Mapping[str, int]
    ) -> None:
        """Say that the learner has had no batch for so long, and where its groups are; `held`: by engine.

        Every STARVING_S, or every second `usual_s`, the seconds that recent steps took (0: there is none yet), where that
        is longer.
        """
        if starving_s < self._told_starving_s:
            self._told_starving_s = 0.0
        if starving_s <= self._told_starving_s + max(STARVING_S, 2 * usual_s):
            return
        self._told_starving_s = starving_s
        engines = ", ".join(f"{name} {count}" for name, count in held.items()) or "there is none"
        self.note(
            f"no step for {starving_s:.0f} s; groups: {num_scored} scored, {num_queued} wait for a verdict, "
            f"with engines: {engines}"
        )

    def check_parity(self, step: int, parity_by_worker: Mapping[str, WorkerParity]) -> None:
        """Judge each engine by NUM_PARITY_TOKENS of its tokens, of one step or of several.

        Sooner where they would be too much even if those that are still to come were no different at all.
        """
        self._num_uncompared = 0 if parity_by_worker else self._num_uncompared + 1
        if self._num_uncompared == NUM_UNCOMPARED_STEPS and self._config.learner.parity_share > 0:
            self.note(
                f"parity has compared no token in the {NUM_UNCOMPARED_STEPS} steps up to {step}: no sample of them had a "
                "weight, or none was of one version only (rollout.kv_after_update = "
                f"{self._config.rollout.kv_after_update!r}); a wrong engine would go unseen"
            )
        max_mean, max_kl = self._config.parity_limits
        for worker, newest in parity_by_worker.items():
            parity = self._parity.pop(worker) + newest if worker in self._parity else newest
            at_least = max(parity.num_tokens, NUM_PARITY_TOKENS)
            for name, what, total, limit in (
                ("max_parity_mean", "mean |log-prob difference|", parity.difference_sum, max_mean),
                ("max_parity_kl", "KL from engine to learner", parity.kl_sum, max_kl),
            ):
                if not total / at_least <= limit:
                    value = total / parity.num_tokens
                    raise Halt(self._differing(worker, step, parity.num_tokens, name, what, value, limit))
            if parity.num_tokens < NUM_PARITY_TOKENS:
                self._parity[worker] = parity

    def _differing(
        self, worker: str, step: int, num_tokens: int, name: str, what: str, value: float, limit: float
    ) -> str:
        rollout, learner = self._config.rollout, self._config.learner
        return (
            f"{worker} samples from another distribution than the learner trains: on {num_tokens} tokens up to step "
            f"{step}, under the weights it says it used, {what} is {value:.2g} nats a token, more than "
            f"train.{name} = {limit:g}; check the model, rollout.dtype = {rollout.dtype!r}, learner.dtype = "
            f"{learner.dtype!r} and the temperature, or raise the limit if the model rounds more than others"
        )

    @property
    def num_steps_without_learning(self) -> int:
        """In a row, the newest step included."""
        return self._nothing_learned.num_steps

    def check_learned(self, step: int, groups: Sequence[JudgedGroup], weights_BN: np.ndarray) -> str | None:
        """Say it where no sample had a weight for long; the message of Halt, for after a checkpoint, where for too long."""
        learning, limit = self._nothing_learned, self._config.train.stop_when_nothing_learned_for
        if learning.observe(groups, weights_BN):
            self.note(learning.message(step))
        if limit is None or learning.num_steps < limit:
            return None
        return f"{learning.message(step)} (train.stop_when_nothing_learned_for = {limit}); there is a checkpoint of this step"

    def note_end(self, step: int, num_steps: int) -> None:
        """The run ends after so many steps of this controller: say it where none of them has learned anything."""
        learning = self._nothing_learned
        if num_steps and learning.num_steps >= num_steps:
            self.note(learning.message(step))

    def check_staleness(self, step: int, facts: Mapping[str, float]) -> None:
        """Warn when the samples of NUM_STALE_STEPS steps, on average, lie too far from the policy they train.

        Once, until they no longer do. A step's facts are averages of few samples, so what counts is their mean less
        two standard errors; and rounding is not the same in all samples, so that much of it may be left in what is
        called staleness.
        """
        self._shifts.append(facts["staleness_kl"] - ROUNDING_UNCERTAINTY * facts["rounding_kl"])
        if len(self._shifts) < NUM_STALE_STEPS:
            return
        train, objective = self._config.train, self._config.objective
        num_select = objective.at(step - 1).num_selected
        mean = statistics.mean(self._shifts)
        surely = mean - 2 * statistics.stdev(self._shifts) / NUM_STALE_STEPS**0.5
        ratio = staleness_ratio(mean, num_select)
        was_stale = self._is_stale
        self._is_stale = staleness_ratio(surely, num_select) > STALENESS_WARNING
        if self._is_stale and not was_stale:
            self.note(
                f"samples too far from the policy they train: staleness_ratio = {ratio:.3g} in the "
                f"{NUM_STALE_STEPS} steps up to {step}, above {STALENESS_WARNING:g}: make train.max_staleness "
                f"less than {train.max_staleness}, or learner.learning_rate less than {self._config.learner.learning_rate:g}, if "
                "the reward does not rise"
            )


def log_to(path: Path) -> None:
    """Write what this process's run has to say to a file, after what is there."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logging.getLogger("cluster").addHandler(handler)
    logging.getLogger("cluster").setLevel(logging.INFO)
