"""The Ray shell around a panel of verifiers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from verifiers.composition import Panel
from verifiers.config import VerifierConfig
from verifiers.types import Problem, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """A group to judge: the texts in rows of the batches that come with it, then a demonstration's."""

    group: int
    problem: Problem
    places: tuple[tuple[int, int], ...]
    """Batch and row of each piece of the group, in the order of its samples."""
    demonstration: str | None = None
    """None: there is none to be judged."""


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
        node_id, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        return {"pid": os.getpid(), "node_id": node_id, "address": address}

    def ready(self) -> None:
        """Returns once the verifiers can judge; the first call, before any to `judge`, starts them.

        Not the constructor: Ray answers nothing before its end, so that a verifier that starts could not be
        told from a worker for which no node has room.
        """
        if not self._is_up:
            self._panel = Panel(self._config)
            self._is_up = True

    def judge(self, items: list[Candidates], *batches: pa.RecordBatch) -> dict[str, Any]:
        """Verdicts by group, in the order of its candidates; `errors` says why one of them `crashed`.

        Of the batches, which Ray brings to this node, only the column `texts` is read: a list of strings a row.
        `num_restarts` counts the verifier processes replaced since this worker started.
        """
        verdicts: dict[int, list[Verdict]] = {}
        errors: dict[int, str] = {}
        for item in items:
            texts = [text for batch, row in item.places for text in batches[batch]["texts"][row].as_py()]
            if item.demonstration is not None:
                texts.append(item.demonstration)
            verdicts[item.group] = self._panel.judge(item.problem, texts)
            if any(verdict.status == "crashed" for verdict in verdicts[item.group]):
                errors[item.group] = self._panel.last_error
        return {
            "pid": os.getpid(),
            "verdicts": verdicts,
            "errors": errors,
            "num_restarts": self._panel.num_restarts,
        }
