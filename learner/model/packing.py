"""Which sequences may share a row and a prompt with others: a question to the model itself.

A layer that carries a state along the row (a recurrence, a convolution) takes it into the next sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from actors.types import SampleGroup
from learner.model import attention
from learner.model.logprobs import hidden_states
from learner.model.windows import check_windows
from learner.step.batch import collect, micro_batches
from learner.types import Packing

TOLERANCE = 1e-4
"""Of the norm of a hidden state: far above float32's rounding, far below what another sequence's state changes."""


@torch.no_grad()
def choose_packing(policy: Any, model: str, *, share_prompts: bool) -> Packing:
    """The cheapest packing under which hidden states equal those of transformers' own attention, a sequence at a time.

    `policy` in float32. Raises ValueError where none does.
    """
    check_windows(policy, model)
    groups = _groups(policy.get_input_embeddings().weight.shape[0])
    expected = _alone(policy, groups)
    packings: list[Packing] = ["shared" if share_prompts else "packed", "rows"]
    for packing in packings:
        difference = _difference(policy, groups, expected, packing)
        if difference < TOLERANCE:
            return packing
    raise ValueError(
        f"model = {model!r} ({type(policy).__name__}) gives other hidden states through the learner's attention than "
        f"through transformers' own (by {difference:.1%} of their norm): the learner cannot train this architecture"
    )


def _groups(vocabulary: int) -> list[SampleGroup]:
    rng = np.random.default_rng(0)
    lengths = (5, 3, 1)
    num_tokens = sum(lengths)
    return [
        SampleGroup(
            group=number,
            problem_id="",
            prompt_token_ids=rng.integers(0, vocabulary, prompt_length).astype(np.int32),
            token_ids=rng.integers(0, vocabulary, num_tokens).astype(np.int32),
            offsets=np.cumsum([0, *lengths]).astype(np.int32),
            logprobs=np.zeros(num_tokens, np.float32),
            versions=np.zeros(num_tokens, np.int32),
            texts=("",) * len(lengths),
            finish_reasons=("stop",) * len(lengths),
            workers=("",) * len(lengths),
            seed=0,
        )
        for number, prompt_length in enumerate((4, 7))
    ]


def _alone(policy: Any, groups: list[SampleGroup]) -> list[torch.Tensor]:
    device = next(policy.parameters()).device
    policy.set_attn_implementation("eager")
    try:
        hidden = []
        for group in groups:
            for start, end in zip(group.offsets[:-1], group.offsets[1:], strict=True):
                ids = np.concatenate([group.prompt_token_ids, group.token_ids[start:end]])[:-1]
                inputs = torch.from_numpy(ids.astype(np.int64))[None].to(device)
                states = policy.base_model(input_ids=inputs, use_cache=False).last_hidden_state[0]
                hidden.append(states[len(group.prompt_token_ids) - 1 :])
        return hidden
    finally:
        policy.set_attn_implementation(attention.NAME)


def _difference(
    policy: Any, groups: list[SampleGroup], expected: list[torch.Tensor], packing: Packing
) -> float:
    """Largest difference of a position's hidden state, as a share of its norm."""
    device = next(policy.parameters()).device
    largest = 0.0
    for batch in micro_batches(collect(groups), np.arange(len(expected)), 4096, packing):
        hidden_TD = hidden_states(policy, batch.to(device))
        for sequence in batch.sequence_ids.unique().tolist():
            ours, theirs = hidden_TD[batch.sequence_ids == sequence].float(), expected[sequence].float()
            norms = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)
            largest = max(largest, float(norms.max().nan_to_num(float("inf"))))
    return largest
