"""Groups -> weights of their samples -> forward and backward, micro-batch by micro-batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from actors.types import ScoredGroup
from learner.config import LearnerConfig
from learner.gang import Gang
from learner.model.policy import Weights
from learner.objectives.calibration import base_scores_of, calibrate
from learner.objectives.config import ObjectiveConfig
from learner.objectives.groups import demonstrations_of, stack
from learner.objectives.table import OBJECTIVES
from learner.parity_check import ParityCheck
from learner.step.batch import (
    Sequences,
    bundles,
    collect,
    num_positions,
)
from learner.step.loss import LossFacts, micro_batch_loss
from learner.step.parity import nothing_compared
from learner.step.part import Part
from learner.trainer import Trainer


class Passes:
    """Adds the gradients of groups to the policy's parameters. Collective: every rank of a gang computes its share."""

    def __init__(
        self,
        trainer: Trainer,
        config: LearnerConfig,
        gang: Gang,
        parity: ParityCheck,
        reference: Weights | None,
        base_scores: Mapping[str, torch.Tensor] | None,
    ) -> None:
        """`base_scores`: by problem, for an objective that asks for ranks among them; otherwise none."""
        self._trainer = trainer
        self._policy = trainer.policy
        self._config = config
        self._normaliser = config.loss_normaliser or 1.0
        self._gang = gang
        self._parity = parity
        self._reference = reference
        self._base_scores = base_scores

    def over(
        self, groups: Sequence[ScoredGroup], objective: ObjectiveConfig, *, num_groups: int, version: int
    ) -> Part:
        """The gradient of the loss of these groups, of the `num_groups` of a step, under the weights of `version`.

        `objective` is the step's: its num_select is a number.

        Raises ArithmeticError, before anything is added, where a weight is not finite; ValueError for groups of different
        sizes, or without the demonstration or the base scores that the objective asks for.
        """
        groups = sorted(groups, key=lambda group: group.samples.group)
        demonstrations = demonstrations_of(groups, objective)
        scored = stack(groups, demonstrations)
        if self._base_scores is not None:
            ids = [group.samples.problem_id for group in groups]
            scored = calibrate(scored, base_scores_of(ids, self._base_scores))
        weights_BN = OBJECTIVES[objective.name].weights(scored, objective)
        if not torch.all(torch.isfinite(weights_BN)):
            raise ArithmeticError("objective's weights are nan")
        weights_M = weights_BN.reshape(-1).float().to(self._policy.device)
        sequences = collect([group.samples for group in groups], demonstrations)
        clock = time.perf_counter()
        batches = self._trainer.share(sequences, self.trained(weights_BN.numpy(), sequences))
        own_positions = sum(batch.input_ids.numel() for batch in batches)
        positions = float(self._gang.sum(np.array([own_positions]))[0])
        references: list[torch.Tensor | None] = [None] * len(batches)
        if self._reference:
            references = [*self._policy.logprobs_under(self._reference, batches)]
        forward_s, backward_s = time.perf_counter() - clock, 0.0
        facts, parity = LossFacts(), nothing_compared(len(sequences.worker_names))
        for cpu_batch, reference_logprobs_T in zip(batches, references, strict=True):
            clock = time.perf_counter()
            batch = cpu_batch.to(self._policy.device)
            logprobs_T = self._policy.logprobs(batch)
            loss, loss_facts = micro_batch_loss(
                logprobs_T,
                batch,
                weights_M,
                num_groups,
                self._config,
                reference_logprobs_T,
                version,
                num_samples=num_groups * weights_BN.shape[1],
            )
            facts += loss_facts
            parity += self._parity.of_pass(sequences, batch, logprobs_T.detach(), version)
            forward_s += time.perf_counter() - clock
            clock = time.perf_counter()
            (loss / self._normaliser).backward()
            self._policy.synchronize()
            backward_s += time.perf_counter() - clock
        return Part(
            groups=groups,
            demonstrations=demonstrations,
            weights_BN=weights_BN.numpy(),
            sequences=sequences,
            facts=facts,
            parity=parity,
            num_groups=num_groups,
            positions=positions,
            forward_s=forward_s,
            backward_s=backward_s,
        )

    def trained(self, weights_BN: np.ndarray, sequences: Sequences) -> np.ndarray:
        """The sequences that passes are made over.

        Without a reference, a sample of weight zero adds exactly zero to the gradient: it needs none.
        """
        samples = np.flatnonzero(weights_BN) if self._reference is None else np.arange(weights_BN.size)
        return np.concatenate([samples, sequences.demonstrations])

    def positions_of_all_ranks(self, sequences: Sequences, chosen: np.ndarray) -> int:
        """Positions of passes over the chosen sequences, however many ranks there are."""
        parts = bundles(sequences, chosen, self._config.micro_batch_tokens, self._trainer.packing)
        return sum(num_positions(sequences, part) for part in parts)
