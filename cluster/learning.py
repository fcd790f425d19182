"""The learner as the controller sees it: an actor with bounded calls, weights as references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.types import ScoredGroup, scored_to_batch
from cluster.calls import reply
from cluster.config import RunConfig
from cluster.rollouts import Published
from learner.types import StepResult
from learner.worker import LearnerWorker

STARTUP_TIMEOUT_S = 180.0


class LearnerHandle:
    """One learner process. Every method raises WorkerLost when it dies, hangs or fails."""

    def __init__(self, config: RunConfig) -> None:
        self._step_timeout_s = config.train.step_timeout_s
        self._actor: Any = LearnerWorker.options(  # type: ignore[attr-defined]
            num_cpus=config.learner.num_cpus,
            num_gpus=config.learner.num_gpus,
            resources=config.learner.resources,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(max(1, int(config.learner.num_cpus)))}},
        ).remote(
            config.model, config.learner, config.objective, config.rollout.temperature, config.train.seed
        )

    async def start(self, checkpoint: Path | None) -> Published:
        """The weights to begin with, once the learner is up: those of the model, or of a checkpoint."""
        facts = await self._reply(self._actor.ready.remote(), STARTUP_TIMEOUT_S, "starting")
        self._manifest = facts.manifest
        if checkpoint:
            loading = self._actor.load.remote(str(checkpoint))
            await self._reply(loading, STARTUP_TIMEOUT_S, f"loading {checkpoint}")
        about, *buckets = self._actor.publish.options(num_returns=self._num_returns).remote()
        weights = await self._reply(about, STARTUP_TIMEOUT_S, "publishing")
        return self._published(weights["version"], weights["fingerprint"], buckets)

    async def train_step(self, groups: Sequence[ScoredGroup]) -> tuple[StepResult, Published]:
        """One optimizer step and the version it made."""
        result, *buckets = self._actor.train_step.options(num_returns=self._num_returns).remote(
            scored_to_batch(groups)
        )
        step: StepResult = await self._reply(result, self._step_timeout_s, "training a step")
        return step, self._published(step.version, step.fingerprint, buckets)

    async def save(self, directory: Path) -> None:
        """Write model, optimizer and random state into a directory."""
        await self._reply(
            self._actor.save.remote(str(directory)), self._step_timeout_s, "writing a checkpoint"
        )

    @property
    def _num_returns(self) -> int:
        return 1 + len(self._manifest.bucket_sizes)

    def _published(self, version: int, fingerprint: int, buckets: list[Any]) -> Published:
        return Published(version=version, fingerprint=fingerprint, manifest=self._manifest, buckets=buckets)

    @staticmethod
    async def _reply(ref: Any, timeout_s: float, doing: str) -> Any:
        return await reply(ref, timeout_s=timeout_s, of="learner", doing=doing)
