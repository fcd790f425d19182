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
from benchmarks.study.equation_verifier import EquationVerifier
from benchmarks.study.equations import INVENTED, operands, operations, plan
from cluster.estimates.per_problem import best_of_k, vote_at_k


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RealPolicy(Policy):
    """A policy that writes equations. Pairs are of two samples of a problem, n (n - 1) / 2 of them.

    A strategy is the operations of an equation, without its numbers (`equations`).
    """

    story_P: np.ndarray
    bon_PK: np.ndarray  # Best-of-k by `EquationVerifier`, for the k of KS
    majority_PK: np.ndarray  # majority@k
    strategies_P: np.ndarray  # distinct ones of n samples
    answers_P: np.ndarray  # distinct ones, none being one of them
    one_strategy_P: np.ndarray  # pairs with one, or without any, of both
    one_strategy_and_answer_P: np.ndarray  # no slips: pairs of those with one answer, or without a strategy
    right_one_strategy_P: np.ndarray  # pairs of right samples with one strategy
    invented_P: np.ndarray  # samples with a number that the question has not
    entropy: float  # nats: mean of -log pi(y | x) over all samples
    tokens: float  # of a completion, mean
    cut_off: float  # share of samples that reached rollout.max_tokens

    def values(self, metric: str, k: int) -> np.ndarray:
        """float64 [P]: "pass", "bon" or "majority" of k samples; "above_chance": how far "bon" is above "pass" of 1.

        And how often two samples of a problem (k = 2) differ in their strategy ("strategies"); and how often those with
        one strategy come to different answers ("slips"): a ratio of means over problems, linearised, so that the mean of
        the values is the ratio, and their variance is that of the ratio to first order.
        """
        if metric in ("bon", "majority"):
            return np.asarray(getattr(self, f"{metric}_PK"), np.float64)[:, KS.index(k)]
        if metric == "above_chance":
            return self.values("bon", k) - self.values("pass", 1)
        if metric == "strategies":
            assert k == 2
            return 1.0 - self.one_strategy_P / math.comb(self.num_samples, 2)
        if metric == "slips":
            assert k == 2
            slips_P = self.one_strategy_P - self.one_strategy_and_answer_P
            ratio = slips_P.sum() / max(1, self.one_strategy_P.sum())
            return ratio + (slips_P - ratio * self.one_strategy_P) / max(1.0, self.one_strategy_P.mean())
        return Policy.values(self, metric, k)

    @property
    def clusters_P(self) -> np.ndarray:
        return self.story_P

    def described(self) -> dict[str, float]:
        """Means over problems, but for `invented`: the share of samples with an invented number.

        `right_strategies`: how often two right samples differ in their strategy, where there are two.
        """
        right_pairs_P = self.correct_P * (self.correct_P - 1) / 2
        several_P = right_pairs_P > 0
        same_P = self.right_one_strategy_P[several_P] / right_pairs_P[several_P]
        return {
            "distinct_strategies": float(self.strategies_P.mean()),
            "distinct_answers": float(self.answers_P.mean()),
            "right_strategies": float(1 - same_P.mean()) if several_P.any() else math.nan,
            "invented": float(self.invented_P.mean()) / self.num_samples,
            "entropy": self.entropy,
            "tokens": self.tokens,
            "cut_off": self.cut_off,
        }


def measure(
    groups: Sequence[ScoredGroup],
    questions: Sequence[str],
    stories: Sequence[int],
    *,
    verifier: EquationVerifier,
    **about: Any,
) -> RealPolicy:
    """Reduce an evaluation to a policy; `questions` and `stories` are of its problems, `about` the other fields.

    `verifier` selects in Best-of-k.
    """
    selected = [
        replace(group, scores=verifier.scores(question, group.samples.texts))
        for group, question in zip(groups, questions, strict=True)
    ]
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
        bon_PK=best_of_k(selected, KS),
        majority_PK=np.zeros((len(groups), len(KS))) if votes is None else votes,
        **arrays,
        entropy=-logprobs / num_samples,
        tokens=sum(len(group.samples.token_ids) for group in groups) / num_samples,
        cut_off=cut / num_samples,
        **about,
    )


def _count(group: ScoredGroup, question: str) -> dict[str, Any]:
    plans = [plan(question, text) for text in group.samples.texts]
    strategies = [operations(one) for one in plans]
    both = [(one, answer if one else None) for one, answer in zip(strategies, group.answers, strict=True)]
    return {
        "strategies_P": len(set(strategies)),
        "answers_P": len(set(group.answers)),
        "one_strategy_P": _equal_pairs(strategies),
        "one_strategy_and_answer_P": _equal_pairs(both),
        "right_one_strategy_P": _equal_pairs(
            one for one, reward in zip(strategies, group.rewards, strict=True) if reward > 0
        ),
        "invented_P": sum(INVENTED in operands(one) for one in plans),
    }


def _equal_pairs(values: Iterable[Hashable]) -> int:
    return sum(math.comb(count, 2) for count in Counter(values).values())
