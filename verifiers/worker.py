"""The Ray shell around a panel of verifiers."""

from __future__ import annotations

import os
from typing import Any

import ray

from verifiers.composition import Panel
from verifiers.config import VerifierConfig
from verifiers.types import Problem, Verdict


@ray.remote(num_cpus=0, max_restarts=0)
class VerifierWorker:
    """Judges groups one after the other, in child processes that may be killed at any time.

    Everything goes back as a return value: what a worker would `ray.put` is lost if it dies.
    A call with G groups of n candidates lasts at most about G * n * (timeout_s + 0.2) seconds
    if every candidate hangs; retries of a dying verifier add to that.
    """

    def __init__(self, config: VerifierConfig) -> None:
        if config.num_gpus == 0:  # Ray does not hide the GPUs from an actor that reserved none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._config = config
        self._is_up = False

    def place(self) -> dict[str, Any]:
        """Pid and node, as soon as this process is up, and at any time later: the sign of life."""
        return {"pid": os.getpid(), "node_id": ray.get_runtime_context().get_node_id()}

    def ready(self) -> None:
        """Returns once the verifiers can judge; the first call, before any to `judge`, starts them.

        Not the constructor: Ray answers nothing before its end, so that a verifier that starts could not be
        told from a worker for which no node has room.
        """
        if not self._is_up:
            self._panel = Panel(self._config)
            self._is_up = True

    def judge(self, items: list[tuple[int, Problem, list[str]]]) -> dict[str, Any]:
        """Verdicts by group, in the order of its completions; `errors` says why one of them `crashed`.

        `num_restarts` counts the verifier processes replaced since this worker started.
        """
        verdicts: dict[int, list[Verdict]] = {}
        errors: dict[int, str] = {}
        for group, problem, completions in items:
            verdicts[group] = self._panel.judge(problem, completions)
            if any(verdict.status == "crashed" for verdict in verdicts[group]):
                errors[group] = self._panel.last_error
        return {
            "pid": os.getpid(),
            "verdicts": verdicts,
            "errors": errors,
            "num_restarts": self._panel.num_restarts,
        }
