"""Resume is exact to the last bit, and a damaged checkpoint is named instead of used."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.weights.fingerprint import param_fingerprint
from learner.model.causal_lm import load_model
from learner.model.checkpoint import write_model
from learner.objectives.config import ObjectiveConfig
from tests.shared.learners import make_learner
from tests.shared.tiny_model import make_group, model_path


def batch(step: int):
    return [make_group(10 * step + number, version=step) for number in range(2)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint after three steps, and the learner that wrote it."""
    learner = make_learner()
    for step in range(3):
        learner.train_step(batch(step))
    directory = tmp_path_factory.mktemp("checkpoint")
    learner.save(directory)
    return directory, learner.published


@pytest.fixture
def damaged(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "damaged")


def test_training_resumes_bit_for_bit(saved):
    straight = make_learner()
    expected = [straight.train_step(batch(step)) for step in range(6)]
    resumed = make_learner()
    resumed.train_step(batch(9))  # whatever it did before is forgotten
    resumed.load(saved[0])
    assert resumed.version == 3 and resumed.published.fingerprint == expected[2].fingerprint
    for step in range(3, 6):
        result = resumed.train_step(batch(step))
        assert result.fingerprint == expected[step].fingerprint
        for name in ("loss", "grad_norm", "learning_rate", "kl"):
            assert result.facts[name] == expected[step].facts[name]
    assert resumed.version == 6
    for ours, theirs in zip(resumed.published.buckets, straight.published.buckets, strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_weights_published_before_a_resume_are_never_taken_for_those_of_the_checkpoint(saved):
    learner = make_learner(parity_share=1e9)
    learner.train_step(batch(9))  # its version 1 is not the version 1 of the checkpoint's history
    learner.load(saved[0])
    assert learner.train_step([make_group(5, version=1)]).facts["parity_tokens"] == 0
    base = make_learner(
        parity_share=1e9
    )  # nor is the base model what the checkpoint's run served as version 0
    base.load(saved[0])
    result = base.train_step([make_group(5, version=0), make_group(6, version=3)])
    assert result.facts["parity_tokens"] == len(make_group(6).samples.token_ids)


def test_a_checkpoint_before_the_first_step_resumes_too(tmp_path):
    learner = make_learner()
    learner.save(tmp_path)
    resumed = make_learner()
    resumed.train_step(batch(9))
    resumed.load(tmp_path)
    assert resumed.version == 0
    assert resumed.train_step(batch(0)).fingerprint == learner.train_step(batch(0)).fingerprint


def test_the_model_directory_stands_on_its_own(saved):
    model = AutoModelForCausalLM.from_pretrained(saved[0] / "model")
    assert param_fingerprint(model.named_parameters()) == saved[1].fingerprint
    assert (saved[0] / "model" / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize("has_settings", [True, False])
def test_completions_end_as_those_of_the_base_do(tmp_path, has_settings):
    """transformers writes generation settings of its own where a model came with none."""
    base = shutil.copytree(model_path(), tmp_path / "base")
    if not has_settings:
        (base / "generation_config.json").unlink()
    write_model(tmp_path / "saved", load_model(str(base)), {}, base)
    assert (tmp_path / "saved" / "generation_config.json").exists() == has_settings


def test_who_may_read_a_checkpoints_settings_may_read_its_tensors(saved):
    modes = {file.name: file.stat().st_mode for file in saved[0].rglob("*") if file.is_file()}
    assert {"learner.json", "optimizer.safetensors", "model.safetensors"} <= modes.keys()
    assert len(set(modes.values())) == 1, modes


def test_a_run_given_in_place_of_a_model_is_told_where_its_models_are(saved, tmp_path):
    with pytest.raises(
        ValueError, match=f"has no config.json: .*; a model of this run is {saved[0] / 'model'}$"
    ):
        load_model(str(saved[0]))
    run = tmp_path / "run"
    for name in ("step-000005", "step-000010", "step-000015.damaged", "step-000020.partial"):
        (run / "checkpoints" / name / "model").mkdir(parents=True)
    with pytest.raises(ValueError, match="; a model of this run is .*/step-000010/model$"):
        load_model(str(run))
    (run / "checkpoints/step-000010/model/adapter_config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=f"; bonfire export {run} --merged DIR writes the one that the adapter"
    ):
        load_model(str(run))


def test_nothing_in_a_checkpoint_runs_code_when_read(saved):
    suffixes = {file.suffix for file in saved[0].rglob("*") if file.is_file()}
    assert suffixes == {".safetensors", ".json"}


@pytest.mark.parametrize("name", ["learner.json", "optimizer.safetensors", "model/model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "empty"])
def test_a_damaged_checkpoint_is_named_and_changes_nothing(damaged, name, damage):
    file = damaged / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-50] if damage == "truncated" else b"")
    learner = make_learner()
    before = learner.published.fingerprint
    with pytest.raises(ValueError, match=f"{name.split('/')[0]}.*use an older checkpoint") as error:
        learner.load(damaged)
    assert "\n" not in str(error.value)
    assert learner.version == 0 and learner.published.fingerprint == before
    result = learner.train_step(batch(0))
    assert result.fingerprint == make_learner().train_step(batch(0)).fingerprint


@pytest.mark.parametrize(
    "damage",
    [
        {"parity": []},
        {"parity": {"bogus": 1}},
        {"parity": {"debt": 0.0}},
        {"parity.seen": None},
        {"parity.seen": {"rollout-0": "soon"}},
        {"parity.seen_ages": {"one": 1}},
        {"parity.num_chosen": 0.5},
        {"num_steps": "three"},
    ],
    ids=str,
)
def test_a_damaged_entry_is_found_before_anything_is_changed(damaged, damage):
    file = damaged / "learner.json"
    facts = json.loads(file.read_text())
    ((name, value),) = damage.items()
    section, _, entry = name.partition(".")
    facts[section] = facts[section] | {entry: value} if entry else value
    file.write_text(json.dumps(facts))
    learner = make_learner()
    before = {name: value.detach().clone() for name, value in learner._policy.parameters.items()}
    with pytest.raises(ValueError, match=r"learner\.json is damaged .*: use an older checkpoint") as error:
        learner.load(damaged)
    assert "\n" not in str(error.value)
    assert learner.version == 0 and not learner._trainer.optimizer.state
    assert all(torch.equal(value, before[name]) for name, value in learner._policy.parameters.items())


def test_a_checkpoint_of_another_model_is_refused(damaged):
    from tests.shared.tiny_model import build_model

    build_model(intermediate_size=64).save_pretrained(damaged / "model")
    with pytest.raises(
        ValueError, match=r"mlp\.gate_proj\.weight' of shape \(64, 32\), the model \(48, 32\)"
    ):
        make_learner().load(damaged)


def test_settings_that_shape_the_result_must_be_the_same(saved):
    with pytest.raises(
        ValueError, match=r"learner\.learning_rate = 0\.0001, this run has 0\.001: resume with"
    ):
        make_learner(learning_rate=1e-3).load(saved[0])
    with pytest.raises(ValueError, match=r"objective\.num_select = 2, this run has 3"):
        make_learner(objective=ObjectiveConfig(num_select=3)).load(saved[0])
    with pytest.raises(ValueError, match=r"temperature = 1\.0, this run has 0\.5"):
        make_learner(temperature=0.5).load(saved[0])
    make_learner(micro_batch_tokens=64, parity_share=1).load(saved[0])


def test_a_checkpoint_of_an_unknown_format_is_refused(damaged):
    facts = json.loads((damaged / "learner.json").read_text())
    (damaged / "learner.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(ValueError, match="has format 99, this version reads 2"):
        make_learner().load(damaged)
