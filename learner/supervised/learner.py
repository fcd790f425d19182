"""Demonstrations in, a fine-tuned model out: maximum likelihood, by the passes and updates of the other learner.

loss = - sum over the step's demonstrations and their completion tokens of log pi(token | all before it), divided by the
number of those tokens. A prompt's tokens are read and never predicted; the stop token is one of the completion's. The
temperature is 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from learner.config import LearnerConfig
from learner.gang import ALONE, Gang
from learner.step.parity import ParityTurns
from learner.supervised.demonstrations import Demonstrations
from learner.trainer import Trainer


class SupervisedLearner:
    """A model being fine-tuned; `num_steps` are done.

    In a gang every rank has one. Each call is made on all of them; each computes its share and returns the same.
    """

    def __init__(
        self,
        model_path: str,
        config: LearnerConfig,
        seed: int,
        data: Demonstrations,
        identity: Mapping[str, Any],
        gang: Gang = ALONE,
    ) -> None:
        """`identity`: JSON values that a checkpoint must have been written with to be gone on from."""
        self._data = data
        self._identity = dict(identity)
        self._gang = gang
        self._trainer = Trainer(model_path, config, 1.0, seed, gang)
        self._policy = self._trainer.policy
        self.packing = self._trainer.packing

    @property
    def num_steps(self) -> int:
        return self._trainer.num_steps

    def train_step(self) -> dict[str, float]:
        """The next step of the optimizer; its facts: `step`, `loss` (before the step, nats a completion token),
        `grad_norm`, `clipped`, `learning_rate`, `demonstrations`, `completion_tokens`, `positions` (computed) and `step_s`.

        Raises ArithmeticError, parameters untouched, when loss or gradient is not finite.
        """
        started = time.perf_counter()
        chosen = self._data.of_step(self.num_steps)
        num_tokens = int(self._data.sequences.completion_lengths[chosen].sum())
        loss, positions = 0.0, 0
        self._trainer.forget_gradients()
        for batch in self._trainer.share(self._data.sequences, chosen):
            part = -self._policy.logprobs(batch.to(self._policy.device)).sum() / num_tokens
            part.backward()
            loss += part.item()
            positions += batch.input_ids.numel()
        loss, positions = self._gang.sum(np.array([loss, positions], np.float64)).tolist()
        try:
            if not math.isfinite(loss):
                raise ArithmeticError(f"loss is {loss}")
            update = self._trainer.update()
        except ArithmeticError as error:
            raise ArithmeticError(
                f"{error} in step {self.num_steps + 1}; the parameters were left as they were. Lower sft.learning_rate"
            ) from error
        return {
            "step": self.num_steps,
            "loss": loss,
            "grad_norm": update.grad_norm,
            "clipped": float(update.is_clipped),
            "learning_rate": update.learning_rate,
            "demonstrations": len(chosen),
            "completion_tokens": num_tokens,
            "positions": positions,
            "step_s": time.perf_counter() - started,
        }

    def held_out_loss(self) -> float:
        """The loss of all held-out demonstrations together, nats a completion token."""
        sequences, chosen = self._data.sequences, self._data.held_out
        total = 0.0
        for batch in self._trainer.share(sequences, chosen):
            total -= float(self._policy.logprobs_alone(batch.to(self._policy.device)).double().sum())
        return float(self._gang.sum(np.array(total))) / int(sequences.completion_lengths[chosen].sum())

    def save(self, directory: str | Path) -> None:
        """Write a checkpoint into `directory`; the caller renames it into place."""
        self._trainer.save(
            Path(directory), version=self.num_steps, settings=self._identity, parity=ParityTurns()
        )

    def load(self, directory: str | Path) -> None:
        """Become the learner that wrote `directory`. Raises ValueError for a damaged one, or one of another identity."""
        self._trainer.load(Path(directory), self._identity)
