"""What a pass keeps is what the estimate says, and blocks are recomputed where that does not fit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from learner.config import LearnerConfig
from learner.gang import ALONE, Gang
from learner.learner import Learner
from learner.model import memory
from learner.model.causal_lm import load_model
from learner.model.logprobs import token_logprobs
from learner.objectives.config import ObjectiveConfig
from learner.step.batch import collect, micro_batches
from tests.shared.saved_tensors import counting
from tests.shared.tiny_model import make_group
from tests.shared.wide_model import NUM_LAYERS, save_wide_model

OPTIMIZER_BYTES = 4 * 3
"""A parameter's gradient and two averages in float32: what a learner has yet to make when its weights are there."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_wide_model(tmp_path_factory.mktemp("wide"))


def one_group():
    return make_group(0, samples=4, prompt_length=50, lengths=(50, 50))


def only_batch():
    sequences = collect([one_group().samples])
    (batch,) = micro_batches(sequences, np.arange(sequences.num_samples), 4096)
    return batch


def kept_bytes(policy, *, bfloat16: bool, recompute: bool) -> int:
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
        counting(list(policy.parameters())) as kept,
    ):
        logprobs_T = token_logprobs(policy, only_batch(), 1.0, recompute=recompute)
        total = kept.total
    assert logprobs_T.requires_grad
    return total


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_pass_keeps_what_is_estimated(directory, bfloat16):
    policy = load_model(str(directory))
    num_parameters = sum(parameter.numel() for parameter in policy.parameters())
    shape = memory.ModelShape.read(directory, num_parameters)
    batch = only_batch()

    def estimated(recompute: bool) -> float:
        return memory.activation_bytes(
            shape,
            positions=batch.input_ids.numel(),
            completion_tokens=len(batch.target_ids),
            bfloat16=bfloat16,
            recompute=recompute,
        )

    # What the gradient of the logits takes for a moment is no tensor that a pass keeps.
    logits = 3 * 4 * len(batch.target_ids) * shape.vocabulary
    everything = kept_bytes(policy, bfloat16=bfloat16, recompute=False)
    assert estimated(False) - logits == pytest.approx(everything, rel=0.25)
    inputs = kept_bytes(policy, bfloat16=bfloat16, recompute=True)
    rounded = 2 * num_parameters if bfloat16 else 0
    # One is recomputed, and kept, while its gradient is made.
    one_block = (everything - rounded - inputs) / NUM_LAYERS
    assert estimated(True) - logits - rounded == pytest.approx(inputs + one_block, rel=0.25)
    assert inputs < 0.2 * everything


class OneOfTwo(Gang):
    """As if another rank were on this machine."""

    def num_here(self) -> int:
        return 2


def kept_in_a_step(directory, free_bytes: float, gang: Gang = ALONE, **settings) -> int:
    """By a learner that finds so many bytes free when its weights are loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free_bytes))
        learner = Learner(
            str(directory), LearnerConfig(**settings), ObjectiveConfig(name="rloo"), 1.0, seed=0, gang=gang
        )
    with counting(list(learner._policy.parameters.values())) as kept:
        learner.train_step([one_group()])
        return kept.total


@pytest.fixture(scope="module")
def bounds(directory):
    """Bytes kept in a step with all blocks kept and with none."""
    return kept_in_a_step(directory, 0.0, recompute="never"), kept_in_a_step(
        directory, 0.0, recompute="always"
    )


def test_recompute_is_what_the_setting_says_whatever_is_free(directory, bounds):
    everything, inputs = bounds
    assert inputs < 0.2 * everything
    assert kept_in_a_step(directory, 1e15, recompute="always") == inputs


def test_auto_recomputes_from_where_a_pass_does_not_fit_beside_the_optimizer(directory, bounds):
    num_parameters = sum(parameter.numel() for parameter in load_model(str(directory)).parameters())
    batch = only_batch()
    needed = memory.activation_bytes(
        memory.ModelShape.read(directory, num_parameters),
        positions=batch.input_ids.numel(),
        completion_tokens=len(batch.target_ids),
        bfloat16=False,
        recompute=False,
    )
    just_enough = (needed + OPTIMIZER_BYTES * num_parameters) / memory.SHARE_OF_MACHINE
    assert kept_in_a_step(directory, just_enough + 4, recompute="auto") == bounds[0]
    assert kept_in_a_step(directory, just_enough - 4, recompute="auto") == bounds[1]
    for_two = 2 * just_enough
    assert kept_in_a_step(directory, for_two + 8, OneOfTwo(), recompute="auto") == bounds[0]
    assert kept_in_a_step(directory, for_two - 8, OneOfTwo(), recompute="auto") == bounds[1]
