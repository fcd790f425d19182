"""Do the learner and the engines compute the same log-probs from the same weights?

On correct weights the difference is rounding. Stale weights, a stale KV cache, another temperature or a
broken engine make it larger on average, and by worker; in bfloat16 no single token can tell
(docs/off-policy.md has what each shows).

Shapes: `T` tokens compared, `M` samples of a step, `W` rollout workers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from learner.gang import Gang
from learner.step.batch import Sequences
from learner.step.loss import MAX_LOG_RATIO
from learner.types import WorkerParity

GOLDEN_RATIO = (5**0.5 - 1) / 2
RECENCY = 0.9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParityFacts:
    """log rho = learner's log-prob - engine's log-prob, by worker, over tokens of a known version."""

    num_tokens_W: np.ndarray  # int64 [W]
    difference_sums_W: np.ndarray  # float64 [W], |log rho|, nats
    kl_sums_W: np.ndarray  # float64 [W], rho - 1 - log rho, nats
    maxima_W: np.ndarray  # float64 [W], |log rho|, nats

    def __add__(self, other: ParityFacts) -> ParityFacts:
        return ParityFacts(
            num_tokens_W=self.num_tokens_W + other.num_tokens_W,
            difference_sums_W=self.difference_sums_W + other.difference_sums_W,
            kl_sums_W=self.kl_sums_W + other.kl_sums_W,
            maxima_W=np.maximum(self.maxima_W, other.maxima_W),
        )

    def among(self, names: tuple[str, ...], all_names: tuple[str, ...]) -> ParityFacts:
        """Those of the workers `names` as some of the workers `all_names`."""

        def placed(values_W: np.ndarray) -> np.ndarray:
            of_all = np.zeros(len(all_names), values_W.dtype)
            of_all[[all_names.index(name) for name in names]] = values_W
            return of_all

        return ParityFacts(
            num_tokens_W=placed(self.num_tokens_W),
            difference_sums_W=placed(self.difference_sums_W),
            kl_sums_W=placed(self.kl_sums_W),
            maxima_W=placed(self.maxima_W),
        )

    def over(self, gang: Gang) -> ParityFacts:
        """Those of all ranks together, on each of them."""
        return ParityFacts(
            num_tokens_W=gang.sum(self.num_tokens_W),
            difference_sums_W=gang.sum(self.difference_sums_W),
            kl_sums_W=gang.sum(self.kl_sums_W),
            maxima_W=gang.largest(self.maxima_W),
        )

    def facts(self) -> dict[str, float]:
        num_tokens = int(self.num_tokens_W.sum())
        return {
            "parity_tokens": float(num_tokens),
            "parity_mean": float(self.difference_sums_W.sum()) / max(1, num_tokens),
            "parity_kl": float(self.kl_sums_W.sum()) / max(1, num_tokens),
            "parity_max": float(self.maxima_W.max(initial=0.0)),
        }

    def by_worker(self, names: tuple[str, ...]) -> dict[str, WorkerParity]:
        """Of workers with tokens compared."""
        return {
            name: WorkerParity(
                num_tokens=int(self.num_tokens_W[worker]),
                difference_sum=float(self.difference_sums_W[worker]),
                kl_sum=float(self.kl_sums_W[worker]),
                largest=float(self.maxima_W[worker]),
            )
            for worker, name in enumerate(names)
            if self.num_tokens_W[worker]
        }


def nothing_compared(num_workers: int) -> ParityFacts:
    return compare(np.empty(0), np.empty(0, np.int64), num_workers)


def compare(log_ratios_T: np.ndarray, workers_T: np.ndarray, num_workers: int) -> ParityFacts:
    """Learner's log-prob minus engine's, in nats, of tokens that came from the given workers.

    The k3 estimate of KL(engine -> learner), as `loss.micro_batch_loss` takes it from behaviour to policy.
    """
    differences_T = np.abs(log_ratios_T)
    bounded_T = np.minimum(log_ratios_T, MAX_LOG_RATIO)
    k3_T = np.expm1(bounded_T) - bounded_T
    maxima = np.zeros(num_workers)
    np.maximum.at(maxima, workers_T, differences_T)

    def sums(values_T: np.ndarray) -> np.ndarray:
        # Of no tokens numpy makes integers, and ranks exchange arrays of one dtype.
        return np.bincount(workers_T, weights=values_T, minlength=num_workers).astype(np.float64)

    return ParityFacts(
        num_tokens_W=np.bincount(workers_T, minlength=num_workers),
        difference_sums_W=sums(differences_T),
        kl_sums_W=sums(k3_T),
        maxima_W=maxima,
    )


@dataclass(slots=True, kw_only=True)
class ParityTurns:
    """Whose tokens are looked at when: at most a share of what training computes, everyone in turn.

    Deterministic, the same on all ranks, and independent of what samples say. What it carries from step to
    step is part of a checkpoint.
    """

    debt: float = 0.0
    """Positions computed beyond the share of the steps so far."""
    num_chosen: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    """Rollout worker -> the step in which tokens of its own were last compared."""
    seen_ages: dict[int, int] = field(default_factory=dict)
    """How many versions old tokens were -> the step in which such tokens were last looked for."""
    num_recent: float = 0.0
    recent_kl: float = 0.0
    """Tokens compared and their k3 in nats, each step's counting RECENCY times as much as the next one's."""

    def choose(
        self,
        candidates: Mapping[int, np.ndarray],
        sequences: Sequences,
        budget: float,
        *,
        step: int,
        version: int,
    ) -> tuple[int, np.ndarray]:
        """Of the candidates by version, one version and the samples to compute under its weights, ascending.

        The worker that has waited longest comes first, with the version that has waited longest among its
        own: other weights cost a pass of their own, so there is one version a step. Samples are taken while
        any of `budget` positions is left. The last may exceed it, and later budgets pay: were a sample taken
        only where it fits, long ones would hardly ever be.
        """
        left = budget - self.debt
        workers_of = {v: set(sequences.workers[ids].tolist()) for v, ids in candidates.items() if len(ids)}
        chosen: list[int] = []
        of_version = version
        if left > 0 and workers_of:
            names = sequences.worker_names
            waiting = sorted(
                set.union(*workers_of.values()), key=lambda worker: (self.seen.get(names[worker], -1), worker)
            )
            versions = [v for v, workers in workers_of.items() if waiting[0] in workers]
            of_version = min(versions, key=lambda v: (self.seen_ages.get(version - v, -1), version - v))
            self.seen_ages[version - of_version] = step
            ids = candidates[of_version]
            by_turn: list[tuple[int, int, int]] = []
            for place, worker in enumerate(waiting):
                of_worker = ids[sequences.workers[ids] == worker]
                by_turn += [
                    (turn, place, int(s)) for turn, s in enumerate(of_worker[self._spread(len(of_worker))])
                ]
            for _, _, sequence in sorted(by_turn):
                if left <= 0:
                    break
                chosen.append(sequence)
                left -= float(sequences.num_positions_S[sequence])
        self.debt = max(0.0, -left)
        self.num_chosen += len(chosen)
        return of_version, np.sort(np.array(chosen, np.int64))

    def note(self, parity: ParityFacts, names: tuple[str, ...], step: int) -> None:
        """What was compared in a step, by all ranks, whatever it was computed for."""
        self.seen.update(
            {name: step for name, count in zip(names, parity.num_tokens_W, strict=True) if count}
        )
        self.num_recent = RECENCY * self.num_recent + float(parity.num_tokens_W.sum())
        self.recent_kl = RECENCY * self.recent_kl + float(parity.kl_sums_W.sum())

    @property
    def rounding_kl(self) -> float:
        """k3 in nats a token between engines and learner on equal weights, of about the last ten steps."""
        return self.recent_kl / self.num_recent if self.num_recent else 0.0

    def _spread(self, count: int) -> np.ndarray:
        """0..count-1, each as often first as any other, and any first few spread over the whole range."""
        bits = max(1, (count - 1).bit_length())
        numbers = np.arange(count)
        reverse = sum(
            (((numbers >> bit) & 1) << (bits - 1 - bit) for bit in range(bits)), np.zeros(count, np.int64)
        )
        first = int(self.num_chosen * GOLDEN_RATIO % 1.0 * count)
        return (np.argsort(reverse, kind="stable") + first) % max(1, count)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"seen_ages": {str(age): step for age, step in self.seen_ages.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ParityTurns:
        """Raises TypeError for what `to_json` did not write."""
        kinds: dict[str, Any] = {
            name: (int, float) if type(default) is float else type(default)
            for name, default in asdict(cls()).items()
        }
        if not isinstance(value, dict) or value.keys() != kinds.keys():
            raise TypeError(f"not the turns of a parity check: {value!r}")
        for name, kind in kinds.items():
            steps = value[name].values() if isinstance(value[name], dict) else ()
            if not isinstance(value[name], kind) or not all(isinstance(step, int) for step in steps):
                raise TypeError(f"{name} of a parity check is {value[name]!r}")
        if not all(age.isdecimal() for age in value["seen_ages"]):
            raise TypeError(f"seen_ages of a parity check is {value['seen_ages']!r}")
        return cls(**{**value, "seen_ages": {int(age): step for age, step in value["seen_ages"].items()}})


def candidates_of(
    sequences: Sequences, versions: Collection[int], skip: Mapping[int, np.ndarray], kept_M: np.ndarray
) -> dict[int, np.ndarray]:
    """version -> samples with tokens of that version, ascending: those of `kept_M`, without those of `skip`.

    A sequence sampled across an update is there once for each of its versions.
    """
    sequence_of_token = np.repeat(
        np.arange(sequences.num_samples), sequences.completion_lengths[: sequences.num_samples]
    )
    found = {}
    for version in sorted(versions):
        present = np.unique(sequence_of_token[sequences.versions == version])
        found[version] = np.setdiff1d(
            present[kept_M[present]], skip.get(version, present[:0]), assume_unique=True
        )
    return found


def of_one_version(sequences: Sequences) -> np.ndarray:
    """bool [M]: not sampled across an update."""
    if not sequences.num_samples:
        return np.ones(0, bool)
    starts = sequences.completion_starts
    return np.minimum.reduceat(sequences.versions, starts) == np.maximum.reduceat(sequences.versions, starts)
