"""The parity check of a learner: its own log-probs against the engines', under the weights sampled with."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch

from learner.model.policy import Policy, Weights
from learner.step.batch import PackedBatch, Sequences
from learner.step.parity import (
    ParityFacts,
    ParityTurns,
    candidates_of,
    compare,
    nothing_compared,
    of_one_version,
)


class ParityCheck:
    """Keeps the newest versions as they were published, and whose turn it is; `turns` are part of a checkpoint.

    `engines_keep_kv`: log-probs of a sequence sampled across an update are those of no weights at hand, so
    only sequences of one version are looked at.
    """

    def __init__(self, policy: Policy, *, num_versions: int, engines_keep_kv: bool) -> None:
        self._policy = policy
        self._num_versions = num_versions
        self._engines_keep_kv = engines_keep_kv
        self._kept: dict[int, Weights] = {}
        self.turns = ParityTurns()

    def keep(self, version: int, weights: Weights) -> None:
        self._kept[version] = weights
        for old in sorted(self._kept)[: -self._num_versions]:
            del self._kept[old]

    @property
    def versions(self) -> Collection[int]:
        """Those whose weights are kept."""
        return self._kept.keys()

    def forget(self) -> None:
        self._kept.clear()

    def of_pass(
        self, sequences: Sequences, batch: PackedBatch, logprobs_T: torch.Tensor, version: int
    ) -> ParityFacts:
        """Of a pass under the weights of `version`: tokens sampled under it, of comparable samples.

        Tokens before them in their sequence may be of other versions: an engine that re-computes its cache under
        `version` does as a full forward pass does.
        """
        num_sampled = batch.num_sampled_tokens
        samples_U = batch.sequence_ids[:num_sampled].cpu().numpy()
        log_ratios_U = (logprobs_T[:num_sampled] - batch.behaviour_logprobs).double().cpu().numpy()
        kept_U = (batch.versions == version).cpu().numpy() & self._comparable(sequences)[samples_U]
        workers = sequences.workers[samples_U[kept_U]]
        return compare(log_ratios_U[kept_U], workers, len(sequences.worker_names))

    def of_others(
        self,
        sequences: Sequences,
        trained: np.ndarray,
        *,
        budget: float,
        step: int,
        version: int,
        divide: Callable[[Sequences, np.ndarray], list[PackedBatch]],
    ) -> tuple[ParityFacts, int]:
        """Of samples beside those trained under the current `version`, and the positions computed for that, over
        the steps about as many as the budgets. `divide` makes this rank's micro-batches of them.
        """
        parity = nothing_compared(len(sequences.worker_names))
        # Tokens of the current version in what is trained are compared already, at no cost.
        candidates = candidates_of(sequences, self._kept, {version: trained}, self._comparable(sequences))
        chosen_version, ids = self.turns.choose(candidates, sequences, budget, step=step, version=version)
        if len(ids) == 0:
            return parity, 0
        batches = divide(sequences, ids)
        logprobs = self._policy.logprobs_under(self._kept[chosen_version], batches)
        for batch, logprobs_T in zip(batches, logprobs, strict=True):
            parity += self.of_pass(sequences, batch, logprobs_T.cpu(), chosen_version)
        return parity, int(sequences.num_positions_S[ids].sum())

    def _comparable(self, sequences: Sequences) -> np.ndarray:
        """bool [M]"""
        if self._engines_keep_kv:
            return of_one_version(sequences)
        return np.ones(sequences.num_samples, bool)
