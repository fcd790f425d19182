"""The learner from demonstrations as a Ray actor: all of it, or one rank of a gang."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from actors.heap import made_to_stay
from learner.config import LearnerConfig
from learner.worker import Rank

if TYPE_CHECKING:  # it imports torch
    from learner.supervised.demonstrations import Demonstrations


@ray.remote(max_restarts=0)
class SupervisedWorker(Rank):
    """Every rank is given all demonstrations; which of them a step learns from follows from its number."""

    def __init__(
        self,
        model: str,
        config: LearnerConfig,
        seed: int,
        data: Demonstrations,
        identity: dict[str, Any],
        rank: int = 0,
    ) -> None:
        with made_to_stay():
            from learner.supervised.learner import SupervisedLearner

        super().__init__(config, rank, partial(SupervisedLearner, model, config, seed, data, identity))

    def ready(self) -> None:
        """Answers when the model is loaded."""

    def train_step(self) -> dict[str, float]:
        """Facts of one optimizer step."""
        return self._learner.train_step()

    def held_out_loss(self) -> float:
        return self._learner.held_out_loss()

    def load(self, directory: str) -> int:
        """Resume; returns the number of steps done."""
        self._learner.load(directory)
        return self._learner.num_steps
