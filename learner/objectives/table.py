"""What the learner ascends: an explicit table of objectives, each a function from groups to weights.

Shapes: `B` prompts, `N` samples of each. With the weights w [B, N] of an entry, float64, the loss is

    -(1/B) [ sum_b sum_i w_bi log pi(y_bi)  +  (imitation objectives only) sum_b log pi(y*_b) ]

where log pi(y) sums over tokens, y* is the demonstration, and the denominator is the number of prompts,
whatever their weights. Where an entry is unbiased, the expected gradient of minus this loss is the gradient
of its estimand, averaged over prompts.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from learner.objectives.best_of_n import bon, bon_rlb, bon_rlbp, max_at_k, pass_at_k
from learner.objectives.group_relative import grpo, grpo_passk, maxrl, pass_at_k_training, rft, rloo
from learner.objectives.groups import Groups, Objective
from learner.objectives.imitation import bon_sft, sft
from learner.objectives.vote import majority

__all__ = ["OBJECTIVES", "Groups", "Objective", "Row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An objective and what its docstring says of it, each a line of plain text."""

    weights: Objective
    summary: str
    estimand: str  # what is maximised
    formula: str
    unbiased: str  # whether, and for what
    source: str
    use: str  # when to use it
    assumes: str
    not_promised: str


LABELS = ("Estimand", "Formula", "Unbiased", "Source", "Use", "Assumes", "Not promised")


def _row(weights: Objective) -> Row:
    """The parts of the docstring, so that what is printed cannot differ from what stands at the code."""
    parts = re.split(rf"^({'|'.join(LABELS)}): +", inspect.getdoc(weights) or "", flags=re.MULTILINE)
    texts = {
        label.lower().replace(" ", "_"): " ".join(text.split())
        for label, text in zip(("Summary", *parts[1::2]), parts[::2], strict=True)
    }
    return Row(weights=weights, **texts)


OBJECTIVES: dict[str, Row] = {
    "bon": _row(bon),
    "pass_at_k": _row(pass_at_k),
    "max_at_k": _row(max_at_k),
    "majority": _row(majority),
    "bon_rlb": _row(bon_rlb),
    "bon_rlbp": _row(bon_rlbp),
    "maxrl": _row(maxrl),
    "rloo": _row(rloo),
    "grpo": _row(grpo),
    "grpo_passk": _row(grpo_passk),
    "pass_at_k_training": _row(pass_at_k_training),
    "rft": _row(rft),
    "sft": _row(sft),
    "bon_sft": _row(bon_sft),
}
