"""Weights in bfloat16 learn as float32 ones do, on average."""

from __future__ import annotations

import math

import pytest
import torch

from learner.config import LearnerConfig
from learner.learner import Learner
from learner.model.causal_lm import load_model
from learner.model.optimizer import RoundingAdamW, make_optimizer, rounded_at_random
from learner.objectives.config import ObjectiveConfig
from tests.shared.architectures import build, by_name
from tests.shared.learners import make_learner
from tests.shared.tiny_model import make_group

SETTINGS = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def test_rounding_at_random_gives_the_two_neighbours_and_the_value_on_average():
    noise = torch.Generator().manual_seed(0)
    values = torch.tensor([1.0, 1.0 + 2**-10, -3.3, 1e-30, 0.0, 255.7])
    drawn = torch.stack([rounded_at_random(values, noise).float() for _ in range(20_000)])
    spacing = 2.0 ** (torch.floor(torch.log2(values.abs().clamp(min=1e-38))) - 7)
    assert ((drawn - values).abs() < spacing).all()
    assert (drawn[:, [0, 4]] == values[[0, 4]]).all()  # what bfloat16 has stays
    torch.testing.assert_close((drawn.mean(0) - values) / spacing, torch.zeros(6), rtol=0, atol=0.02)


def test_updates_far_below_a_weights_resolution_are_made_in_proportion():
    """1,000 steps of about 1e-6 on weights of 0.1 move 4,096 of them by 1e-3 on average; to nearest, not at all."""
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        start = torch.full((4096,), 0.1, dtype=torch.bfloat16)
        weight = torch.nn.Parameter(start.clone().to(dtype))
        optimizer = make_optimizer([weight], learning_rate=1e-6, seed=3, **SETTINGS)
        for _ in range(1000):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        moved[dtype] = float((weight.detach().float() - start.float()).mean())
    assert moved[torch.float32] == pytest.approx(-1e-3, rel=0.1)
    assert moved[torch.bfloat16] == pytest.approx(moved[torch.float32], rel=0.05)
    nearest = torch.nn.Parameter(torch.full((4096,), 0.1, dtype=torch.bfloat16))
    plain = torch.optim.AdamW([nearest], lr=1e-6, **SETTINGS)
    for _ in range(50):
        nearest.grad = torch.ones_like(nearest)
        plain.step()
    assert (nearest == torch.tensor(0.1, dtype=torch.bfloat16)).all()


def test_the_same_seed_and_step_give_the_same_bits_whatever_came_before():
    def run(seed: int, steps: int, optimizer=None, weight=None):
        if optimizer is None:
            torch.manual_seed(0)
            weight = torch.nn.Parameter(torch.randn(100).bfloat16())
            optimizer = make_optimizer([weight], learning_rate=1e-3, seed=seed, **SETTINGS)
        for _ in range(steps):
            torch.randn(7)  # the global generator has no part in it
            weight.grad = (weight.detach() * 0.5).clone()
            optimizer.step()
        return optimizer, weight

    _, whole = run(1, 6)
    optimizer, weight = run(1, 3)
    resumed = RoundingAdamW([weight], seed=1, lr=1e-3, **SETTINGS)
    resumed.load_state_dict(optimizer.state_dict())
    _, continued = run(1, 3, resumed, weight)
    assert torch.equal(whole, continued)
    assert not torch.equal(whole, run(2, 6)[1])


@pytest.mark.parametrize("shape", [(10, 3), (1, 7), (), (0, 4), (6,)])
def test_a_parameter_is_stepped_in_slices_as_it_is_in_one(shape, monkeypatch):
    """But for the noise, which is left out here. Without slices a large embedding took 24 bytes per element more."""
    monkeypatch.setattr("learner.model.optimizer.rounded_at_random", lambda values, noise: values.bfloat16())

    def run(size: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        monkeypatch.setattr("learner.model.optimizer.SLICE", size)
        weight = torch.nn.Parameter(torch.linspace(-2, 2, math.prod(shape)).reshape(shape).bfloat16())
        made = make_optimizer([weight], learning_rate=1e-2, seed=0, **SETTINGS)
        for step in range(3):
            weight.grad = (weight.detach() - step).clone()
            made.step()
        return weight.detach(), list(made.state[weight].values())

    (whole, state), (sliced, state_of_sliced) = run(2**24), run(4)
    assert torch.equal(whole, sliced)
    assert all(map(torch.equal, state, state_of_sliced))


def test_a_learner_of_bfloat16_weights_trains_publishes_and_resumes_to_the_bit(tmp_path):
    settings = {
        "dtype": "bfloat16",
        "weights_dtype": "bfloat16",
        "publish_dtype": "bfloat16",
        "learning_rate": 1e-3,
    }
    groups = [make_group(number) for number in range(3)]
    one = make_learner(**settings)
    before = one.published.fingerprint
    assert {p.dtype for p in one._policy.parameters.values()} == {torch.bfloat16}
    one.train_step(groups)
    one.save(tmp_path)
    result = one.train_step(groups)
    assert result.fingerprint != before and result.facts["grad_norm"] > 0
    two = make_learner(**settings)
    two.load(tmp_path)
    assert two.train_step(groups).fingerprint == result.fingerprint


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "DeepSeek-V3", "Gemma 3", "Falcon-H1"])
def test_weights_in_bfloat16_leave_what_is_not_trained_as_it_is(name, tmp_path):
    """Frequencies of positions, a router's bias: rounded, they would be another model than the engines'."""
    model = build(by_name(name))
    with torch.no_grad():
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                buffer.normal_()
    model.save_pretrained(tmp_path)
    exact = dict(load_model(str(tmp_path)).named_buffers())
    config = LearnerConfig(dtype="bfloat16", weights_dtype="bfloat16", learning_rate=1e-2)
    learner = Learner(str(tmp_path), config, ObjectiveConfig(num_select=2), 1.0, seed=0)
    policy = learner._policy.model
    assert learner.train_step([make_group(0)]).facts["grad_norm"] > 0
    buffers = dict(policy.named_buffers())
    assert buffers.keys() == exact.keys() and any(buffer.is_floating_point() for buffer in buffers.values())
    for buffer_name, buffer in exact.items():
        assert buffers[buffer_name].dtype == buffer.dtype and torch.equal(buffers[buffer_name], buffer), (
            buffer_name
        )
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.bfloat16}
    is_tied = policy.get_output_embeddings().weight is policy.get_input_embeddings().weight
    assert is_tied == policy.config.tie_word_embeddings


def test_a_step_in_bfloat16_goes_the_way_of_one_in_float32():
    groups = [make_group(number, samples=8) for number in range(4)]
    moved = []
    for settings in ({}, {"dtype": "bfloat16", "weights_dtype": "bfloat16"}):
        learner = make_learner(learning_rate=1e-3, warmup_steps=0, **settings)
        start = [p.detach().float().clone() for p in learner._policy.parameters.values()]
        for _ in range(4):
            learner.train_step(groups)
        ends = [p.detach().float() for p in learner._policy.parameters.values()]
        moved.append(torch.cat([(b - a).flatten() for a, b in zip(start, ends, strict=True)]))
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.7


def test_weights_in_bfloat16_are_not_computed_with_in_float32():
    with pytest.raises(ValueError, match=r"weights_dtype = 'bfloat16' with dtype = 'float32'"):
        LearnerConfig(dtype="float32", weights_dtype="bfloat16")
