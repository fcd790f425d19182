"""A base model is fine-tuned by actors of a cluster, goes on after a stop, and is there whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.config.parse import parse_config
from cluster.config.schema import RunConfig
from cluster.run.base_model import (
    STAMP,
    alone,
    base_is_there,
    check_made_from,
    held_out_losses,
    make_by_fine_tuning,
)
from cluster.run.fine_tuning import FineTuningProgress
from learner.supervised.demonstrations import Demonstrations, lay_out
from tests.shared.tiny_model import model_path

pytestmark = pytest.mark.usefixtures("ray_cluster")
STEPS = 6
DATA = Demonstrations(
    sequences=lay_out(
        [(1 + n, 2, 3) for n in range(12)], [(4 + n % 3, 5, 6, 7 + n % 5)[: 1 + n % 4] for n in range(12)]
    ),
    trained=torch.arange(2, 12).numpy(),
    held_out=torch.arange(2).numpy(),
    batch_size=4,
    num_rows=4 * STEPS,
    seed=1,
)


def make_config(
    model: Path,
    learner: dict[str, object] | None = None,
    rollout: dict[str, object] | None = None,
    **sft: object,
) -> RunConfig:
    settings = {
        "base_model": os.path.relpath(model_path()),  # the actors' working directory is another one
        "steps": STEPS,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "held_out_every": 2,
        "checkpoint_every": 4,
    }
    sections = {"sft": {**settings, **sft}, "learner": learner or {}, "rollout": rollout or {}}
    return parse_config({"model": str(model), **sections})


def make(config: RunConfig, should_stop: Callable[[int], bool] = lambda step: False) -> list[int]:
    """The steps that were taken until it was done, or stopped."""
    steps: list[FineTuningProgress] = []
    is_done = make_by_fine_tuning(
        config,
        DATA,
        on_progress=steps.append,
        on_note=pytest.fail,
        should_stop=lambda: should_stop(len(steps) + 1),
    )
    assert is_done == Path(config.model).exists()
    return [progress.step for progress in steps]


def lines(path: Path) -> list[dict[str, float]]:
    facts = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in fact.items() if name != "step_s"} for fact in facts]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunConfig:
    """Of a model that was made in one go, of a base of its own."""
    directory = tmp_path_factory.mktemp("made")
    base = shutil.copytree(model_path(), directory / "base")
    config = make_config(directory / "whole", base_model=str(base))
    assert make(config) == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in directory.iterdir()) == ["base", "whole"]
    return config


def test_a_fine_tuning_that_was_stopped_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped = make_config(tmp_path / "stopped")
    assert make(whole) == []  # one that waited for another finds it made
    assert make(stopped, lambda step: step == 3) == [1, 2, 3]
    making = tmp_path / "stopped.making"
    assert [path.name for path in (making / "checkpoints").iterdir()] == ["step-000003"]
    with pytest.raises(
        ValueError, match=r"stopped\.making was made with sft\.seed = 0, the config says 5: delete"
    ):
        make(make_config(tmp_path / "stopped", seed=5))
    assert make(stopped) == [4, 5, 6]
    assert [path.name for path in tmp_path.iterdir()] == ["stopped"]
    ours, theirs = (load_file(Path(one.model) / "model.safetensors") for one in (stopped, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    facts = lines(tmp_path / "stopped" / "sft.jsonl")
    assert facts == lines(Path(whole.model) / "sft.jsonl")
    assert [fact["step"] for fact in facts] == list(range(STEPS + 1))
    assert [fact["step"] for fact in facts if "held_out_loss" in fact] == [0, 2, 4, 6]
    assert held_out_losses(whole) == [fact["held_out_loss"] for fact in facts if "held_out_loss" in fact]


def test_a_loss_that_is_no_number_ends_it_in_one_line_and_leaves_no_model(tmp_path):
    with pytest.raises(
        RuntimeError, match=r"learner failed while training a step: .* Lower sft.learning_rate"
    ):
        config = make_config(tmp_path / "model", warmup_steps=0)
        beyond_bounds = {"learning_rate": 1e30, "max_grad_norm": 1e30}
        assert config.sft is not None
        make(config.model_copy(update={"sft": config.sft.model_copy(update=beyond_bounds)}))
    assert [path.name for path in tmp_path.iterdir()] == ["model.making"]


def test_a_model_made_of_other_weights_or_of_other_sides_is_not_taken_for_this_ones(whole, tmp_path):
    (base,) = Path(whole.model).parent.glob("base")
    shutil.copytree(whole.model, tmp_path / "model")
    config = make_config(tmp_path / "model", base_model=str(base))
    check_made_from(config, DATA)
    weights = base / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: value + 1 for name, value in tensors.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="was made with weights of sft.base_model = "):
        check_made_from(config, DATA)
    save_file(tensors, weights, metadata={"format": "pt"})
    other = dataclasses.replace(DATA, trained=DATA.held_out, held_out=DATA.trained)
    with pytest.raises(ValueError, match="was made with which are trained = "):
        check_made_from(config, other)
    stamp = tmp_path / "model" / STAMP
    made = json.loads(stamp.read_text())
    del made["which are trained"], made["weights of sft.base_model"]
    stamp.write_text(json.dumps(made))
    check_made_from(config, other)  # an older version wrote neither


def test_two_that_make_the_same_model_do_not_touch_each_others_work(tmp_path):
    config = make_config(tmp_path / "model")
    with (
        alone(config),
        pytest.raises(ValueError, match=r"model = .* is being made by another bonfire: wait for its end"),
    ):
        make(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_adapters_are_merged_into_the_model_that_is_made(tmp_path):
    config = make_config(tmp_path / "model", learner={"lora": {"rank": 4, "target": ["q_proj"]}})
    assert make(config) == list(range(1, STEPS + 1))
    made, base = (load_file(Path(path) / "model.safetensors") for path in (config.model, model_path()))
    assert made.keys() == base.keys()
    changed = {name for name, value in base.items() if not torch.equal(made[name], value)}
    assert changed == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)}
    assert held_out_losses(config)[-1] != held_out_losses(config)[0]
    lora = {"rank": 4, "target": ["q_proj"], "publish": "adapter"}  # is about the run that follows
    assert base_is_there(make_config(tmp_path / "model", learner={"lora": lora}))
    served = make_config(tmp_path / "model", learner={"lora": lora}, rollout={"dtype": "bfloat16"})
    with pytest.raises(ValueError, match=r"was made with rollout\.dtype = 'float32'"):
        base_is_there(served)
    for other, said in (({"lora": {"rank": 2, "target": ["q_proj"]}}, ".*'rank': 2"), ({}, "None")):
        with pytest.raises(
            ValueError, match=rf"was made with learner\.lora = .*'rank': 4.* config says {said}"
        ):
            base_is_there(make_config(tmp_path / "model", learner=other))
