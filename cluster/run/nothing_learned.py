"""A run that trains nothing: for how many steps, and why that may be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.config.schema import RunConfig
from cluster.fleet.stored import JudgedGroup

NUM_STEPS = 10
"""Steps in a row without a weight from which on it is said; again each time the number has doubled."""
NO_WEIGHT = 1e-8
"""What rounding leaves of a weight that is zero."""


class NothingLearned:
    """Counts steps in a row in which no sample had a weight, and says the likely cause."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._tell_at = NUM_STEPS
        self.num_steps = 0
        self.cause = ""
        """Of the newest step without a weight; empty while something is learned."""

    def observe(self, groups: Sequence[JudgedGroup], weights_BN: np.ndarray) -> bool:
        """A step's groups and the weights that its samples had; true if it is to be said now."""
        imitates = self._config.objective.needs_demonstrations
        if imitates or np.abs(weights_BN).max(initial=0.0) > NO_WEIGHT:
            self.num_steps, self.cause, self._tell_at = 0, "", NUM_STEPS
            return False
        self.num_steps += 1
        self.cause = likely_cause(groups, self._config)
        if self.num_steps < self._tell_at:
            return False
        self._tell_at *= 2
        return True

    def message(self, step: int) -> str:
        return f"nothing was learned in the {self.num_steps} steps up to {step}: {self.cause}"


def likely_cause(groups: Sequence[JudgedGroup], config: RunConfig) -> str:
    """Why no sample of these groups has a weight, and what to look at."""
    rollout, label = config.rollout, config.verifier.label
    facts = [group.stored.facts for group in groups]
    statuses = {status for group in groups for status in group.judgement.statuses}
    reasons = frozenset[str]().union(*(one.finish_reasons for one in facts))
    rewards = {float(reward) for group in groups for reward in group.judgement.rewards}
    if rollout.samples_per_prompt > 1 and all(one.has_one_text for one in facts):
        return (
            f"all samples of a prompt are alike: raise rollout.temperature = {rollout.temperature:g}, or give prompts that "
            "the model does not know by heart"
        )
    if reasons == {"length"}:
        return f"every sample was cut off at rollout.max_tokens = {rollout.max_tokens}: raise it, or ask for shorter answers"
    if statuses == {"wrong_format"}:
        return f"verifier {label} found no answer in any sample: tell the model in the prompt how to give it"
    if len(statuses) == 1 and statuses != {"ok"}:
        return f"verifier {label} gave every sample the status {statuses.pop()!r}: look at its settings"
    if config.objective.needs_answers:
        if all(answer is None for group in groups for answer in group.judgement.answers):
            return (
                f"verifier {label} names no answer of any sample, and objective.name = {config.objective.name!r} counts "
                "answers: return Verdict(answer=...), or choose another objective"
            )
        if any(len(set(group.judgement.rewards)) > 1 for group in groups):
            return (
                f"of no prompt does a single vote turn the outcome of {config.objective.largest_num_select}: lower "
                "objective.num_select, or begin with a low one ({ from = 1, to = ..., over = ... })"
            )
    if config.objective.needs_base_scores:
        return (
            "the samples of each prompt had equal ranks among the base's, above all of them or below: take more of those "
            f"(objective.base_samples = {config.objective.base_samples}), or problems that are neither too easy nor too hard"
        )
    if len(rewards) == 1:
        (reward,) = rewards
        return (
            f"every sample had reward {reward:g}: the problems are "
            + ("too easy, " if reward > 0 else "too hard for this model, ")
            + f"or verifier {label} does not tell answers apart (look at them in trajectories/)"
        )
    return (
        "the samples of each prompt had equal rewards: take more of them (rollout.samples_per_prompt = "
        f"{rollout.samples_per_prompt}), or problems that are neither too easy nor too hard"
    )
