"""Do the learner and the engines compute the same log-probs from the same weights?

On correct weights the difference is rounding (about 1e-6 nats in float32). Stale weights, a stale
KV cache, another temperature or a broken engine show up as nats, and by worker.

Shapes: `T` tokens compared, `W` rollout workers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from learner.gang import Gang
from learner.step.batch import Sequences


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParityFacts:
    """|learner's log-prob - engine's log-prob| by worker, over tokens of a known version."""

    num_tokens_W: np.ndarray  # int64 [W]
    sums_W: np.ndarray  # float64 [W], nats
    maxima_W: np.ndarray  # float64 [W], nats

    def __add__(self, other: ParityFacts) -> ParityFacts:
        return ParityFacts(
            num_tokens_W=self.num_tokens_W + other.num_tokens_W,
            sums_W=self.sums_W + other.sums_W,
            maxima_W=np.maximum(self.maxima_W, other.maxima_W),
        )

    def over(self, gang: Gang) -> ParityFacts:
        """Those of all ranks together, on each of them."""
        return ParityFacts(
            num_tokens_W=gang.sum(self.num_tokens_W),
            sums_W=gang.sum(self.sums_W),
            maxima_W=gang.largest(self.maxima_W),
        )

    def facts(self) -> dict[str, float]:
        num_tokens = int(self.num_tokens_W.sum())
        return {
            "parity_tokens": float(num_tokens),
            "parity_mean": float(self.sums_W.sum()) / max(1, num_tokens),
            "parity_max": float(self.maxima_W.max(initial=0.0)),
        }

    def by_worker(self, names: tuple[str, ...]) -> dict[str, float]:
        return {
            name: float(maximum)
            for name, maximum, count in zip(names, self.maxima_W, self.num_tokens_W, strict=True)
            if count
        }


def compare(differences_T: np.ndarray, workers_T: np.ndarray, num_workers: int) -> ParityFacts:
    """Absolute differences in nats of tokens that came from the given workers."""
    maxima = np.zeros(num_workers)
    np.maximum.at(maxima, workers_T, differences_T)
    return ParityFacts(
        num_tokens_W=np.bincount(workers_T, minlength=num_workers),
        sums_W=np.bincount(workers_T, weights=differences_T, minlength=num_workers),
        maxima_W=maxima,
    )


def choose(
    sequences: Sequences, versions: Collection[int], skip: dict[int, np.ndarray], max_sequences: int
) -> dict[int, np.ndarray]:
    """version -> sequences to compute under it: those with tokens of that version, workers in turn.

    A sequence sampled across an update counts once for each of its versions. `skip` holds, by
    version, samples already compared. The choice is spread over workers, versions and the batch,
    and does not depend on what the samples say.
    """
    candidates: list[tuple[int, int, int, int]] = []
    samples = np.arange(sequences.num_samples)
    sequence_of_token = np.repeat(samples, sequences.completion_lengths[samples])
    for version in sorted(versions):
        present = np.unique(sequence_of_token[sequences.versions == version])
        present = np.setdiff1d(present, skip.get(version, present[:0]), assume_unique=True)
        for worker in range(len(sequences.worker_names)):
            of_worker = present[sequences.workers[present] == worker]
            spread = of_worker[np.argsort(_van_der_corput(len(of_worker)), kind="stable")][:max_sequences]
            candidates += [(turn, worker, -version, int(sequence)) for turn, sequence in enumerate(spread)]
    chosen: dict[int, list[int]] = {}
    for _, _, negative_version, sequence in sorted(candidates)[:max_sequences]:
        chosen.setdefault(-negative_version, []).append(sequence)
    return {version: np.sort(np.array(ids, np.int64)) for version, ids in chosen.items()}


def _van_der_corput(count: int) -> np.ndarray:
    """Bit-reversed 0..count-1: any first few of the order are spread over the whole range."""
    bits = max(1, (count - 1).bit_length())
    numbers = np.arange(count)
    return sum((((numbers >> bit) & 1) << (bits - 1 - bit) for bit in range(bits)), np.zeros(count, np.int64))
