"""One policy of the study on a real model as numbers: what its samples are worth, and in what they differ.

Shapes: `P` problems of a split, `n` samples of each, `K` values of k.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from actors.types import ScoredGroup
from benchmarks.study.design import KS, Policy
from benchmarks.study.workings import adds_up, has_slip, plan
from cluster.estimates.per_problem import best_of_k, vote_at_k


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RealPolicy(Policy):
    """A policy that works exercises out. Pairs are of two samples of a problem, n (n - 1) / 2 of them."""

    story_P: np.ndarray
    bon_PK: np.ndarray  # Best-of-k by the calculator (`adds_up`), for the k of KS
    majority_PK: np.ndarray  # majority@k
    plans_P: np.ndarray  # distinct plans of n samples
    answers_P: np.ndarray  # distinct answers, none being one of them
    one_plan_P: np.ndarray  # pairs with one plan
    one_plan_and_answer_P: np.ndarray  # those of them with one answer
    right_one_plan_P: np.ndarray  # pairs of right samples with one plan
    slipped_P: np.ndarray  # samples with a false calculation
    entropy: float  # nats: mean of -log pi(y | x) over all samples
    tokens: float  # of a completion, mean
    cut_off: float  # share of samples that reached rollout.max_tokens

    def values(self, metric: str, k: int) -> np.ndarray:
        """float64 [P]: "pass", "bon" or "majority" of k samples.

        And how often two samples of a problem (k = 2) differ: in their plan ("plans"), or in nothing but
        the answer that they come to with one plan ("slips").
        """
        if metric in ("bon", "majority"):
            return np.asarray(getattr(self, f"{metric}_PK"), np.float64)[:, KS.index(k)]
        if metric in ("plans", "slips"):
            assert k == 2
            pairs = math.comb(self.num_samples, 2)
            if metric == "plans":
                return 1.0 - self.one_plan_P / pairs
            return (self.one_plan_P - self.one_plan_and_answer_P) / pairs
        return Policy.values(self, metric, k)

    @property
    def clusters_P(self) -> np.ndarray:
        return self.story_P

    def described(self) -> dict[str, float]:
        """Means over problems, but for the share of samples with a slip.

        `right_plans`: how often two right samples differ in their plan, where there are two.
        """
        right_pairs_P = self.correct_P * (self.correct_P - 1) / 2
        several_P = right_pairs_P > 0
        same_P = self.right_one_plan_P[several_P] / right_pairs_P[several_P]
        return {
            "distinct_plans": float(self.plans_P.mean()),
            "distinct_answers": float(self.answers_P.mean()),
            "right_plans": float(1 - same_P.mean()) if several_P.any() else math.nan,
            "slipped": float(self.slipped_P.mean()) / self.num_samples,
            "entropy": self.entropy,
            "tokens": self.tokens,
            "cut_off": self.cut_off,
        }


def measure(
    groups: Sequence[ScoredGroup], questions: Sequence[str], stories: Sequence[int], **about: Any
) -> RealPolicy:
    """Reduce an evaluation to a policy; `questions` and `stories` are of its problems, `about` the other fields."""
    votes = vote_at_k(groups, KS)
    counts = [_count(group, question) for group, question in zip(groups, questions, strict=True)]
    logprobs = sum(float(group.samples.logprobs.astype(np.float64).sum()) for group in groups)
    num_samples = sum(group.samples.num_samples for group in groups)
    cut = sum(reason == "length" for group in groups for reason in group.samples.finish_reasons)
    arrays: dict[str, Any] = {name: np.array([count[name] for count in counts]) for name in counts[0]}
    return RealPolicy(
        num_samples=groups[0].samples.num_samples,
        correct_P=np.array([int((group.rewards > 0).sum()) for group in groups]),
        story_P=np.array(stories),
        bon_PK=best_of_k([_by_calculator(group) for group in groups], KS),
        majority_PK=np.zeros((len(groups), len(KS))) if votes is None else votes,
        **arrays,
        entropy=-logprobs / num_samples,
        tokens=sum(len(group.samples.token_ids) for group in groups) / num_samples,
        cut_off=cut / num_samples,
        **about,
    )


def _by_calculator(group: ScoredGroup) -> ScoredGroup:
    return replace(group, scores=np.array([float(adds_up(text)) for text in group.samples.texts]))


def _count(group: ScoredGroup, question: str) -> dict[str, Any]:
    texts = group.samples.texts
    plans = [plan(question, text) for text in texts]
    both = list(zip(plans, group.answers, strict=True))
    return {
        "plans_P": len(set(plans)),
        "answers_P": len(set(group.answers)),
        "one_plan_P": _equal_pairs(plans),
        "one_plan_and_answer_P": _equal_pairs(both),
        "right_one_plan_P": _equal_pairs(
            one for one, reward in zip(plans, group.rewards, strict=True) if reward > 0
        ),
        "slipped_P": sum(map(has_slip, texts)),
    }


def _equal_pairs(values: Iterable[Hashable]) -> int:
    return sum(math.comb(count, 2) for count in Counter(values).values())
