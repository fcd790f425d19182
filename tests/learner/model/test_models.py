"""Each architecture of docs/models.md on the learner's side: every claim of its row but for the engine's."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.model_files import StoredShape, stored_shapes
from learner.model.causal_lm import load_model
from learner.model.fit import check_architecture, check_weights
from learner.model.logprobs import token_logprobs
from learner.step.batch import collect, micro_batches
from tests.shared.architectures import ARCHITECTURES, Architecture, by_name, save
from tests.shared.models_table import (
    MODELS_PAGE,
    check_names,
    check_packing,
    check_training,
    make_learner,
    rows_of,
)
from tests.shared.tiny_model import make_group

by_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.name)


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory):
    @cache
    def directory_of(architecture: Architecture) -> Path:
        return save(architecture, tmp_path_factory.mktemp("model"))

    return directory_of


@by_architecture
def test_packed_sequences_have_the_log_probs_of_single_ones(architecture, directory_of):
    check_packing(architecture, directory_of(architecture))


@by_architecture
def test_a_step_trains_every_parameter_and_is_published_as_a_checkpoint_has_it(
    architecture, directory_of, tmp_path
):
    learner = make_learner(directory_of(architecture))
    check_training(learner)
    check_names(learner, directory_of(architecture), tmp_path)


@by_architecture
def test_the_files_of_every_architecture_fit_its_config(architecture, directory_of):
    directory = directory_of(architecture)
    config = check_architecture(directory, architecture.name)
    stored = stored_shapes(directory)
    check_weights(config, stored, directory)
    name = max(stored, key=lambda name: stored[name].shape)
    with pytest.raises(ValueError, match=re.escape(f"{name!r} has the shape [1]")):
        check_weights(config, stored | {name: StoredShape(dtype="F32", shape=(1,))}, directory)


@pytest.mark.parametrize("name", ["Gemma 4 (text)", "Qwen3-MoE", "Falcon-H1"])
def test_recomputed_blocks_give_the_same_gradients(name, directory_of):
    """Also where blocks hand keys on to later ones, or route, or carry a state."""
    architecture = by_name(name)
    policy = load_model(str(directory_of(architecture)))
    sequences = collect([make_group(0, samples=3, prompt_length=20).samples])
    (batch,) = micro_batches(sequences, np.arange(3), 4096, architecture.packing)
    gradients = []
    for recompute in (False, True):
        policy.zero_grad()
        token_logprobs(policy, batch, 1.0, recompute=recompute).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in policy.parameters()])
    assert any(bool(gradient.any()) for gradient in gradients[0])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, kept, rtol=1e-6, atol=1e-9)


def test_the_page_lists_exactly_these_architectures():
    assert list(rows_of(MODELS_PAGE.read_text())) == [one.name for one in ARCHITECTURES]
