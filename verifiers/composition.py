"""Score and reward from one verifier, or from several and their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

from verifiers.config import VerifierConfig
from verifiers.process.killable import VerifierProcess
from verifiers.types import CRASHED, Problem, Status, Verdict

SEVERITY: tuple[Status, ...] = ("ok", "wrong_format", "refused", "too_large", "timeout", "crashed")


class Panel:
    """All verifiers that a config names, each in a child process of its own.

    What one of them does to its process, or a candidate makes it do, costs the others nothing: a model
    is not loaded again because an answer hung the verifier beside it. Use it from one thread. Raises
    VerifierStartError if one cannot be had or cannot work here.
    """

    def __init__(self, config: VerifierConfig) -> None:
        self._reward, self._score = config.reward_weights, config.score_weights
        self._processes: dict[str, VerifierProcess] = {}
        try:
            for name in config.names:
                self._processes[name] = VerifierProcess(config, name)
        except BaseException:
            self.close()
            raise

    @property
    def num_restarts(self) -> int:
        """Processes started after each verifier's first."""
        return sum(process.num_restarts for process in self._processes.values())

    @property
    def last_error(self) -> str:
        """Why the latest `crashed` verdicts or restarts came about; empty if there was none."""
        return "; ".join(process.last_error for process in self._processes.values() if process.last_error)

    def judge(self, problem: Problem, completions: Sequence[str]) -> list[Verdict]:
        """One verdict for each completion, in order. Never raises for what a verifier does."""
        verdicts = {name: process.judge(problem, completions) for name, process in self._processes.items()}
        if self._score is None and list(self._reward.values()) == [1.0]:
            (single,) = verdicts.values()
            return single
        by_candidate = zip(*verdicts.values(), strict=True)
        return [
            combine(dict(zip(verdicts, row, strict=True)), self._reward, self._score) for row in by_candidate
        ]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def combine(
    verdicts: Mapping[str, Verdict], reward: Mapping[str, float], score: Mapping[str, float] | None
) -> Verdict:
    """One verdict of several: sums weighted by verifier, `-inf` wherever a score in the sum is.

    Without `score` the same sum is taken of the reward's verifiers' scores. The status is the worst that
    a verifier of the reward gave; a crash of any is a crash of all. The answer is the first that there
    is, the reward's verifiers first.
    """
    latency_s = sum(verdict.latency_s for verdict in verdicts.values())
    if any(verdict.status == "crashed" for verdict in verdicts.values()):
        return CRASHED
    weights = reward if score is None else score
    # A verifier that would never select a candidate is not outvoted, whatever the sign of its weight.
    never = any(verdicts[name].score == -math.inf for name in weights)
    answers = [verdicts[name].answer for name in dict.fromkeys([*reward, *weights])]
    return Verdict(
        score=-math.inf if never else sum(w * verdicts[name].score for name, w in weights.items()),
        reward=sum(w * verdicts[name].reward for name, w in reward.items()),
        status=max((verdicts[name].status for name in reward), key=SEVERITY.index),
        answer=next((answer for answer in answers if answer is not None), None),
        latency_s=latency_s,
    )
