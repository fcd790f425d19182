"""What the learner of a running run writes, its trajectories and its part of checkpoints; the ledger, the record."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.config.schema import RunConfig
from cluster.fleet.calls import Halt, WorkerLost, is_accident
from cluster.fleet.learning import LearnerHandle
from cluster.run.metrics import Metrics
from cluster.run_directory.identity import identity
from cluster.run_directory.problem_list import digest, write_problem_list
from cluster.run_directory.record import RunRecord, naming_disk, write_failed
from verifiers.types import Problem

logger = logging.getLogger(__name__)


class Saver:
    """Writes trajectories and checkpoints; rollout workers go on meanwhile, as far as the staleness bound has leases for them."""

    def __init__(
        self,
        config: RunConfig,
        record: RunRecord,
        learner: LearnerHandle,
        problems: Sequence[Problem],
        metrics: Metrics,
        *,
        newest: int | None,
    ) -> None:
        """`newest`: version of the newest checkpoint, None without one."""
        self._num_ranks = config.learner.ranks
        self._keep = config.train.keep_checkpoints
        self._identity = identity(config, problems)
        imitated = config.objective.needs_demonstrations
        self._digests = {problem.id: digest(problem, imitated=imitated) for problem in problems}
        self._record = record
        self._learner = learner
        self._metrics = metrics
        self._newest = newest
        self._is_saving = False
        self._seconds: float | None = None

    def facts(self) -> dict[str, Any]:
        """The newest checkpoint, how long this process took to write it, and whether one is being written."""
        return {"version": self._newest, "seconds": self._seconds, "is_saving": self._is_saving}

    async def write_trajectories(self, version: int) -> None:
        """Have the learner, which has them, write the groups of the step that made a version.

        Raises WorkerLost when the learner is lost, Halt or OSError, in one line, when they cannot be written.
        """
        try:
            await self._learner.write_trajectories(self._record.begin_trajectories(version))
        except WorkerLost as error:
            if is_accident(error, num_ranks=self._num_ranks):
                raise
            failure = write_failed(self._record.trajectories_path(version), str(error))
            self._record.drop_trajectories(version)
            raise Halt(str(failure)) from error
        self._record.finish_trajectories(version)

    async def save(
        self, version: int, ledger: dict[str, Any], unjudged: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Write the checkpoint of a version, unless it is there; returns when it would survive a crash.

        `unjudged`: the problems set aside.

        Raises WorkerLost when the learner is lost, Halt or OSError, in one line, when it cannot be written.
        """
        if version == self._newest:
            return
        self._is_saving = True
        started_s = time.perf_counter()
        partial = self._record.begin_checkpoint(version)
        try:
            await self._learner.save(partial)
        except WorkerLost as error:
            if is_accident(error, num_ranks=self._num_ranks):
                raise
            failure = write_failed(partial, str(error))
            self._record.drop_checkpoint(version)
            raise Halt(str(failure)) from error
        state = {
            "version": version,
            "ledger": ledger,
            "unjudged": list(unjudged),
            "identity": self._identity,
            "time": time.time(),
        }
        with naming_disk(partial):
            write_problem_list(partial, self._digests)
        await asyncio.to_thread(self._record.finish_checkpoint, version, state, keep=self._keep)
        self._newest = version
        self._is_saving = False
        self._seconds = time.perf_counter() - started_s
        self._metrics.observe_checkpoint(self._seconds)
        logger.info("checkpoint of step %d written in %.2f s", version, self._seconds)
