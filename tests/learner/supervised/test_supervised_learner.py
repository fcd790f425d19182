"""Fine-tuning on demonstrations against a slow transcription in float64, in parts, over ranks, resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.config import LearnerConfig
from learner.step.batch import micro_batches
from learner.supervised.config import SftConfig
from learner.supervised.demonstrations import Demonstrations, lay_out
from learner.supervised.learner import SupervisedLearner
from tests.shared.ranks import Ranks, make_supervised
from tests.shared.tiny_model import (
    VOCABULARY_SIZE,
    make_norms_exact,
    model_path,
    reference_model,
    slow_logprobs,
)

SETTINGS = {"learning_rate": 1e-2, "eps": 1e-3, "warmup_steps": 2, "weight_decay": 0.1, "max_grad_norm": 0.5}


def pairs(num: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prompts and completions of random tokens; the first ones are the same whatever their number."""
    made = []
    for number in range(num):
        rng = np.random.default_rng(number)
        lengths = rng.integers(2, 9), rng.integers(1, 12)
        made.append(tuple(rng.integers(0, VOCABULARY_SIZE, length) for length in lengths))
    return made


def demonstrations(num: int = 10, held_out: int = 2, batch_size: int = 4, steps: int = 6) -> Demonstrations:
    prompts, completions = zip(*pairs(num), strict=True)
    return Demonstrations(
        sequences=lay_out(prompts, completions),
        trained=np.arange(held_out, num),
        held_out=np.arange(held_out),
        batch_size=batch_size,
        num_rows=batch_size * steps,
        seed=3,
    )


def make_learner(data: Demonstrations | None = None, **settings: object) -> SupervisedLearner:
    return make_supervised({**SETTINGS, **settings}, data or demonstrations())


def weights_of(learner: SupervisedLearner) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in learner._policy.parameters.items()}


def mean_loss(model: torch.nn.Module, chosen: np.ndarray) -> torch.Tensor:
    """Minus the mean log-prob of all completion tokens of the chosen demonstrations, one sequence at a time."""
    every = pairs(10)
    logprobs = [slow_logprobs(model, every[i][0], torch.from_numpy(every[i][1]), 1.0) for i in chosen]
    return -torch.cat(logprobs).mean()


@pytest.mark.parametrize("micro_batch_tokens", [8192, 24])
def test_steps_are_the_slow_transcription_in_float64(micro_batch_tokens):
    """Packed beside others, and in several passes, as each sequence alone; no token of a prompt is a target."""
    data = demonstrations()
    learner = make_learner(micro_batch_tokens=micro_batch_tokens)
    learner._policy.model.double()
    # Eager attention would take its softmax in float32.
    model = AutoModelForCausalLM.from_pretrained(
        model_path(), dtype=torch.float64, attn_implementation="sdpa"
    )
    for policy in (learner._policy.model, model):
        make_norms_exact(policy)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), eps=1e-3, weight_decay=0.1)
    for step in range(3):
        assert learner.held_out_loss() == pytest.approx(mean_loss(model, data.held_out).item(), rel=1e-12)
        facts = learner.train_step()
        loss = mean_loss(model, data.of_step(step))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 0.01 * min(1, (step + 1) / 2)
        optimizer.step()
        assert facts["loss"] == pytest.approx(loss.item(), rel=1e-12)
        assert facts["grad_norm"] == pytest.approx(norm.item(), rel=1e-10) and norm > 0.5
        assert facts["step"] == step + 1 and facts["demonstrations"] == 4
    ours = weights_of(learner)
    for name, value in model.named_parameters():
        torch.testing.assert_close(ours[name], value.detach(), rtol=0, atol=1e-10)


def test_only_completions_are_predicted_stop_token_included():
    data = demonstrations()
    seen = []
    for batch in micro_batches(data.sequences, np.arange(10), 30):
        assert batch.num_sampled_tokens == 0
        for sequence in batch.sequence_ids.unique().tolist():
            targets = batch.target_ids[batch.sequence_ids == sequence]
            assert targets.tolist() == pairs(10)[sequence][1].tolist()
            seen.append(sequence)
    assert sorted(seen) == list(range(10))


def test_a_demonstration_that_comes_twice_in_a_step_counts_twice():
    data = demonstrations(num=3, held_out=0, batch_size=7, steps=1)
    assert np.bincount(data.of_step(0)).tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])
    assert make_learner(data).train_step()["loss"] == pytest.approx(
        mean_loss(reference_model(), data.of_step(0)).item(), rel=1e-5
    )


def test_the_loss_falls_and_the_held_out_loss_is_measured_without_a_trace():
    data = demonstrations(steps=40)
    one, other = make_learner(data), make_learner(data)
    losses = []
    for _ in range(40):
        losses.append(one.train_step()["loss"])
        one.held_out_loss()
        other.train_step()
    assert np.mean(losses[-2:]) < 0.5 * losses[0]
    assert all(torch.equal(value, weights_of(other)[name]) for name, value in weights_of(one).items())


def test_a_learner_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(tmp_path):
    whole = make_learner()
    for step in range(5):
        if step == 2:
            whole.save(tmp_path)
        last = whole.train_step()
    resumed = make_learner()
    resumed.load(tmp_path)
    assert resumed.num_steps == 2
    again = [resumed.train_step() for _ in range(3)][-1]
    assert {**again, "step_s": 0} == {**last, "step_s": 0}
    assert all(torch.equal(value, weights_of(resumed)[name]) for name, value in weights_of(whole).items())


def test_a_checkpoint_of_another_fine_tuning_is_refused(tmp_path):
    make_learner().save(tmp_path)
    other = make_supervised(SETTINGS, demonstrations(), identity={"sft.seed": 8})
    with pytest.raises(ValueError, match=r"written with sft.seed = 0, this run has 8: resume with the same"):
        other.load(tmp_path)


def test_the_checkpoints_model_is_a_transformers_directory(tmp_path):
    learner = make_learner()
    learner.train_step()
    learner.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager").double()
    assert mean_loss(model, np.arange(2)).item() == pytest.approx(learner.held_out_loss(), rel=1e-5)
    assert (tmp_path / "model" / "tokenizer.json").is_file()


def test_bfloat16_computes_about_the_same_and_keeps_float32_weights():
    exact, rounded = make_learner(), make_learner(dtype="bfloat16")
    assert rounded.train_step()["loss"] == pytest.approx(exact.train_step()["loss"], rel=2e-2)
    assert {value.dtype for value in weights_of(rounded).values()} == {torch.float32}


def test_a_loss_that_is_no_number_leaves_the_parameters_as_they_were():
    learner = make_learner()
    with torch.no_grad():
        learner._policy.parameters["lm_head.weight"][0] = float("nan")
    before = weights_of(learner)
    with pytest.raises(ArithmeticError, match=r"loss is nan in step 1; .*Lower sft.learning_rate"):
        learner.train_step()
    assert learner.num_steps == 0
    for name, value in weights_of(learner).items():
        assert torch.equal(value.nan_to_num(7.0), before[name].nan_to_num(7.0))


def test_recomputed_blocks_change_nothing():
    kept, recomputed = make_learner(recompute="never"), make_learner(recompute="always")
    assert kept.train_step()["loss"] == recomputed.train_step()["loss"]
    for name, value in weights_of(kept).items():
        torch.testing.assert_close(weights_of(recomputed)[name], value, rtol=0, atol=1e-6)


def test_the_learners_own_settings_say_on_what_and_the_section_how():
    sft = SftConfig(base_model="m", learning_rate=3e-4, schedule="linear", weight_decay=0.2)
    own = LearnerConfig(learning_rate=1e-6, dtype="bfloat16", recompute="always", kl_coefficient=0.1, ranks=2)
    config = sft.learner_config(own, 50)
    assert (config.learning_rate, config.schedule, config.schedule_steps) == (3e-4, "linear", 50)
    assert (config.dtype, config.recompute, config.ranks) == ("bfloat16", "always", 2)
    assert (config.kl_coefficient, config.weight_decay, config.betas) == (0.0, 0.2, (0.9, 0.98))


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.close()


def test_a_gang_is_one_learner_also_after_a_measurement_and_in_its_checkpoint(two, tmp_path):
    """Measuring leaves shards as they were: what is saved after it is whole, with AdamW's averages."""
    alone = make_learner(micro_batch_tokens=24)
    two.make_supervised({**SETTINGS, "micro_batch_tokens": 24}, demonstrations())
    for _ in range(3):
        expected = alone.train_step()
        for facts in two.call("train_step"):
            assert facts["loss"] == pytest.approx(expected["loss"], rel=1e-5)
            assert facts["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
            assert facts["positions"] == expected["positions"]
        assert two.call("held_out_loss") == pytest.approx([alone.held_out_loss()] * 2, rel=1e-5)
    two.save(tmp_path)
    assert json.loads((tmp_path / "learner.json").read_text())["num_steps"] == 3
    resumed = make_supervised({**SETTINGS, "micro_batch_tokens": 24}, demonstrations(), identity={})
    resumed.load(tmp_path)
    for name, value in weights_of(alone).items():
        assert (weights_of(resumed)[name] - value).norm() <= 1e-5 * value.norm(), name
    assert resumed.train_step()["loss"] == pytest.approx(alone.train_step()["loss"], rel=1e-5)


def test_adapters_learn_from_demonstrations_and_resume_bit_for_bit(tmp_path):
    lora = {"lora": {"rank": 4, "alpha": 8}}
    straight = make_learner(**lora)
    before = straight.held_out_loss()
    assert before == make_learner().held_out_loss()
    trained = weights_of(straight)
    assert all(".lora_" in name for name in trained)
    for _ in range(3):
        straight.train_step()
    straight.save(tmp_path)
    resumed = make_learner(**lora)
    resumed.load(tmp_path)
    assert [resumed.train_step()["loss"] for _ in range(3)] == [
        straight.train_step()["loss"] for _ in range(3)
    ]
    assert all(torch.equal(value, weights_of(resumed)[name]) for name, value in weights_of(straight).items())
    assert straight.held_out_loss() != before
