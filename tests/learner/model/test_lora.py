"""Adapters: their gradients, what is served of them, what is stored of them. Exact wherever bits can be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from actors.weights.fingerprint import param_fingerprint
from actors.weights.manifest import views
from learner.config import LearnerConfig, LoraConfig
from learner.learner import Learner
from learner.model import memory
from learner.model.causal_lm import load_model
from learner.model.export import export_merged, serve_apart
from learner.model.logprobs import token_logprobs
from learner.model.lora import attach, count_parameters, was_served_apart
from learner.objectives.config import ObjectiveConfig
from learner.step.batch import collect, micro_batches
from tests.shared import architectures
from tests.shared.learners import make_learner
from tests.shared.tiny_model import (
    build_model,
    make_group,
    make_norms_exact,
    model_path,
    reference_model,
)

LORA = {"rank": 4, "alpha": 8}
NUM_ADAPTER_PARAMETERS = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
"""Of the tiny model: two layers, rank 4, and inputs and outputs of q and o, k and v, gate, up and down."""


def make(**settings):
    """Steps so large that merged weights differ from the base model's in bfloat16 too."""
    return make_learner(**{"lora": LORA, "learning_rate": 2e-2, "warmup_steps": 0, **settings})


def batch(step: int):
    return [make_group(10 * step + number, version=step) for number in range(2)]


def only_batch(number: int = 0):
    sequences = collect([make_group(number).samples])
    (packed,) = micro_batches(sequences, np.arange(sequences.num_samples), 4096)
    return packed


def served(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in views(learner.manifest, learner.published.buckets)}


def trained(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in learner._policy.parameters.items()}


def with_adapters(*, served: str = "float32", dtype: torch.dtype = torch.float64, **lora):
    """The tiny model with adapters whose B is not zero."""
    torch.manual_seed(0)
    model = load_model(model_path())
    adapters = attach(model, LoraConfig(**{**LORA, **lora}), served, model_name="tiny")
    model.to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model, adapters


# --- mathematics ---


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_autograd_through_merged_weights(recompute):
    model, adapters = with_adapters()
    make_norms_exact(model)
    token_logprobs(model, only_batch(), 0.7, recompute=recompute).square().sum().backward()

    plain = reference_model()
    make_norms_exact(plain)
    plain.set_attn_implementation("bonfire")
    factors = {
        name: value.detach().clone().requires_grad_()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    merged = {}
    for name, known in adapters.names.items():
        layer = known.removesuffix(".base_layer.weight")
        if layer != known:
            down, up = (factors[f"{layer}.lora_{part}.default.weight"] for part in "AB")
            merged[name] = dict(plain.named_parameters())[name].detach() + 2.0 * up @ down
    assert len(merged) == 14
    logprobs = torch.func.functional_call(_Logprobs(plain), {f"policy.{n}": v for n, v in merged.items()})
    logprobs.square().sum().backward()
    for name, factor in factors.items():
        ours = dict(model.named_parameters())[name].grad
        assert (ours - factor.grad).norm() <= 1e-9 * factor.grad.norm(), name


class _Logprobs(torch.nn.Module):
    def __init__(self, policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self):
        return token_logprobs(self.policy, only_batch(), 0.7)


def test_new_adapters_change_no_bit_of_what_the_model_computes():
    model = load_model(model_path())
    before = token_logprobs(model, only_batch(), 1.0)
    attach(model, LoraConfig(**LORA), "float32", model_name="tiny")
    assert torch.equal(token_logprobs(model, only_batch(), 1.0), before)


def test_alpha_over_rank_is_the_factor_of_the_product():
    one, _ = with_adapters(rank=4, alpha=8)
    other, _ = with_adapters(rank=4, alpha=4)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_B" in name:
                parameter.mul_(2)
    assert torch.equal(token_logprobs(one, only_batch(), 1.0), token_logprobs(other, only_batch(), 1.0))


# --- what is trained, and what is served of it ---


def test_a_step_changes_adapters_and_nothing_else_and_only_they_have_gradients_and_averages():
    learner = make(kl_coefficient=0.1)
    base = dict(load_model(model_path()).named_parameters())
    known = learner._trainer._adapters.names
    before = trained(learner)
    assert sum(value.numel() for value in before.values()) == NUM_ADAPTER_PARAMETERS
    for step in range(2):
        learner.train_step(batch(step))
    now = dict(learner._policy.model.named_parameters())
    assert all(torch.equal(now[known[name]], value) for name, value in base.items())
    assert all(now[known[name]].grad is None for name in base)
    assert not [name for name, value in trained(learner).items() if torch.equal(value, before[name])]
    state = learner._trainer.optimizer.state
    assert {id(parameter) for parameter in state} == {
        id(value) for value in learner._policy.parameters.values()
    }


@pytest.mark.parametrize(
    ("dtype", "weights_dtype"),
    [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")],
)
def test_what_is_published_is_what_the_learner_computes_with_to_the_bit(dtype, weights_dtype, tmp_path):
    """A learner of all weights, started from what was published, gives the same log-probs."""
    settings = {"dtype": dtype, "publish_dtype": dtype, "weights_dtype": weights_dtype}
    learner = make(**settings)
    base = learner.published.fingerprint
    assert base == make_learner(**settings).published.fingerprint
    for step in range(3):
        learner.train_step(batch(step))
    assert learner.published.fingerprint == param_fingerprint(served(learner)) != base
    learner.save(tmp_path / "saved")
    assert export_merged(tmp_path / "saved/model", tmp_path / "merged") == dtype
    of_all = Learner(
        str(tmp_path / "merged"),
        LearnerConfig(**settings),
        ObjectiveConfig(name="bon", num_select=2),
        1.0,
        seed=0,
    )
    assert of_all.published.fingerprint == learner.published.fingerprint
    assert torch.equal(
        learner._policy.logprobs_alone(only_batch(7)), of_all._policy.logprobs_alone(only_batch(7))
    )


def test_samples_of_published_weights_are_at_parity_with_the_learner_after_every_step():
    learner = make(parity_share=1e6)
    older = reference_model(served(learner))
    for _ in range(4):
        model = reference_model(served(learner))
        groups = [
            make_group(20 * learner.version, version=learner.version, model=model),
            make_group(20 * learner.version + 1, version=max(0, learner.version - 1), model=older),
        ]
        older = model
        facts = learner.train_step(groups).facts
        assert facts["parity_max"] < 2e-5
        assert facts["parity_tokens"] > 0
    frozen = reference_model()
    wrong = learner.train_step([make_group(0, version=learner.version, model=frozen)])
    assert wrong.facts["parity_mean"] > 0.1  # a sampler that ignores adapters


def test_versions_kept_for_parity_and_the_reference_hold_adapters_alone():
    learner = make(kl_coefficient=0.1)
    learner.train_step(batch(0))
    kept = [*learner._parity._kept.values(), learner._passes._reference]
    assert len(kept) == 3
    assert all(sum(v.numel() for v in weights.values()) == NUM_ADAPTER_PARAMETERS for weights in kept)


def test_the_reference_is_the_base_model_though_nothing_of_it_was_copied():
    learner = make(kl_coefficient=0.1)
    for step in range(2):
        learner.train_step(batch(step))
    (ours,) = learner._policy.logprobs_under(learner._passes._reference, [only_batch(5)])
    of_all = make_learner(kl_coefficient=0.1)
    of_all.train_step(batch(0))
    (copied,) = of_all._policy.logprobs_under(of_all._passes._reference, [only_batch(5)])
    assert torch.equal(ours, copied)
    assert not torch.equal(ours, learner._policy.logprobs_alone(only_batch(5)))


def test_the_kl_of_a_step_is_that_to_a_copied_base_model(tmp_path):
    """The same policy, held as adapters and as a whole model whose reference is a copy."""
    learner = make(kl_coefficient=0.1)
    learner.train_step(batch(0))
    of_all = make_learner(kl_coefficient=0.1)
    with torch.no_grad():
        for name, value in served(learner).items():
            of_all._policy.parameters[name].copy_(value)
    ours, theirs = learner.train_step(batch(1)).facts, of_all.train_step(batch(1)).facts
    for fact in ("loss", "kl_reference", "kl", "trained_tokens"):
        assert ours[fact] == pytest.approx(theirs[fact], rel=1e-5), fact
    assert ours["kl_reference"] > 0.01


def test_the_memory_that_is_estimated_is_that_of_weights_and_adapters():
    learner = make(kl_coefficient=0.1)
    learner.train_step(batch(0))
    state = learner._trainer.optimizer.state.values()
    held = sum(value.nbytes for value in learner._policy.all_parameters.values())
    held += sum(one[key].nbytes for one in state for key in ("exp_avg", "exp_avg_sq"))
    held += sum(value.nbytes for value in learner._policy.parameters.values())  # their gradients
    held += sum(value.nbytes for value in learner._passes._reference.values())
    assert memory.fixed_bytes(learner._trainer.shape, learner._config) == held


# --- checkpoints ---


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint after three steps, and the learner that wrote it."""
    learner = make(kl_coefficient=0.1)
    for step in range(3):
        learner.train_step(batch(step))
    directory = tmp_path_factory.mktemp("adapter")
    learner.save(directory)
    return directory, learner


def test_training_resumes_bit_for_bit(saved, tmp_path):
    straight = make(kl_coefficient=0.1)
    expected = [straight.train_step(batch(step)) for step in range(5)]
    resumed = make(kl_coefficient=0.1)
    resumed.train_step(batch(9))  # whatever it did before is forgotten
    resumed.load(saved[0])
    assert resumed.version == 3 and resumed.published.fingerprint == expected[2].fingerprint
    for step in range(3, 5):
        result = resumed.train_step(batch(step))
        assert result.fingerprint == expected[step].fingerprint
        for name in ("loss", "grad_norm", "kl_reference"):
            assert result.facts[name] == expected[step].facts[name]
    resumed.save(tmp_path / "resumed")
    straight.save(tmp_path / "straight")
    for name in ("model/adapter_model.safetensors", "model/adapter_config.json", "optimizer.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_checkpoint_is_an_adapter_and_what_its_optimizer_knows(saved):
    directory, _ = saved
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    assert names == [
        "learner.json",
        "model/adapter_config.json",
        "model/adapter_model.safetensors",
        "model/bonfire_adapter.json",
        "model/tokenizer.json",
        "optimizer.safetensors",
    ]
    numel = sum(value.numel() for value in load_file(directory / "model/adapter_model.safetensors").values())
    assert numel == NUM_ADAPTER_PARAMETERS


def test_peft_loads_it_and_computes_and_merges_the_same(saved):
    directory, learner = saved
    base = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, directory / "model").eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        theirs = adapted(input_ids=ids).logits
        ours = learner._policy.model(input_ids=ids).logits
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    merged = adapted.merge_and_unload()
    assert param_fingerprint(merged.named_parameters()) == learner.published.fingerprint


def test_what_is_exported_is_a_model_of_its_own_with_the_weights_that_were_published(saved, tmp_path):
    directory, learner = saved
    export_merged(directory / "model", tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert param_fingerprint(model.named_parameters()) == learner.published.fingerprint
    stored = load_file(tmp_path / "merged/model.safetensors")
    assert stored.keys() == served(learner).keys()
    assert (tmp_path / "merged/tokenizer.json").read_text() == "{}"
    with pytest.raises(ValueError, match=r"merged exists: name a new directory"):
        export_merged(directory / "model", tmp_path / "merged")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_that_was_published_alone_is_given_to_engines_again_to_the_bit(dtype, tmp_path):
    learner = make(lora={**LORA, "publish": "adapter"}, publish_dtype=dtype)
    learner.train_step(batch(0))
    learner.save(tmp_path)
    assert was_served_apart(tmp_path / "model")
    found = serve_apart(tmp_path / "model", dtype)
    assert (found.manifest, found.rank) == (learner.manifest, LORA["rank"])
    assert found.fingerprint == learner.published.fingerprint
    for ours, theirs in zip(found.buckets, learner.published.buckets, strict=True):
        assert (ours == theirs).all()


def test_an_adapter_that_was_published_merged_is_not_served_apart(saved):
    assert not was_served_apart(saved[0] / "model")


def test_an_adapter_of_another_program_is_not_merged_as_if_it_were_of_ours(saved, tmp_path):
    adapter = Path(shutil.copytree(saved[0] / "model", tmp_path / "adapter"))
    (adapter / "bonfire_adapter.json").unlink()
    with pytest.raises(
        ValueError, match=r"has no bonfire_adapter\.json.*: merge it by peft's own merge_and_unload"
    ):
        export_merged(adapter, tmp_path / "merged")


@pytest.fixture
def moved(saved, tmp_path):
    """The checkpoint, and a copy of its base model to change."""
    base = Path(shutil.copytree(model_path(), tmp_path / "base"))
    checkpoint = Path(shutil.copytree(saved[0], tmp_path / "checkpoint"))
    config = checkpoint / "model/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    return checkpoint, base


def test_an_adapter_of_a_base_model_that_has_changed_is_refused(moved, tmp_path):
    checkpoint, base = moved
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-6
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    words = r"adapts other weights than model = .* has now: bring back those that it was trained on"
    learner = Learner(
        str(base),
        LearnerConfig(lora=LoraConfig(**LORA), learning_rate=2e-2, warmup_steps=0, kl_coefficient=0.1),
        ObjectiveConfig(name="bon", num_select=2),
        1.0,
        seed=0,
    )
    before = trained(learner)
    with pytest.raises(ValueError, match=words) as error:
        learner.load(checkpoint)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in trained(learner).items())
    with pytest.raises(ValueError, match=words):
        export_merged(checkpoint / "model", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_checkpoint_of_other_adapters_or_of_none_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match=r"was written with learner\.lora = .*'rank': 4"):
        make(kl_coefficient=0.1, lora={"rank": 2}).load(saved[0])
    with pytest.raises(ValueError, match=r"was written with learner\.lora"):
        make_learner(learning_rate=2e-2, warmup_steps=0, kl_coefficient=0.1).load(saved[0])
    make_learner(learning_rate=2e-2, warmup_steps=0).save(tmp_path)
    with pytest.raises(ValueError, match=r"was written with learner\.lora = None, this run has "):
        make().load(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_adapter_is_named_and_changes_nothing(saved, tmp_path, damage):
    directory = shutil.copytree(saved[0], tmp_path / "damaged")
    file = directory / "model/adapter_model.safetensors"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-50])
    learner = make(kl_coefficient=0.1)
    before = trained(learner)
    with pytest.raises(ValueError, match=r"adapter_model.*use an older checkpoint") as error:
        learner.load(directory)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in trained(learner).items())


def test_an_adapter_is_no_model_to_begin_with(saved):
    with pytest.raises(ValueError, match="is an adapter, not a model: merge it .* by `bonfire export` first"):
        load_model(str(saved[0] / "model"))


# --- which layers ---


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            ["qproj"],
            "has no linear layer named 'qproj' (did you mean q_proj?); it has down_proj, gate_proj, k_proj",
        ),
        (["q_proj", "norm"], "has no linear layer named 'norm'"),
        (["embed_tokens"], "has no linear layer named 'embed_tokens'"),
    ],
    ids=str,
)
def test_a_target_that_is_no_linear_layer_of_the_model_is_refused_in_one_line(target, words):
    with pytest.raises(ValueError) as error:
        make(lora={"target": target})
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"learner.lora.target = {target}: model = ")


def test_a_rank_that_no_matrix_has_is_refused_in_one_line():
    make(lora={"rank": 32})
    with pytest.raises(
        ValueError, match=r"^learner.lora.rank = 33: no weight .* has a rank above 32: lower it, or leave"
    ):
        make(lora={"rank": 33})


def test_a_head_that_shares_its_weight_with_the_embedding_is_refused():
    model = build_model(tie_word_embeddings=True)
    with pytest.raises(ValueError, match="'lm_head' of model = 'tied' shares its weight with the embedding"):
        attach(model, LoraConfig(target=("lm_head",)), "float32", model_name="tied")


def test_targets_get_adapters_and_no_other_layer_does():
    model, _ = with_adapters(target=["q_proj", "lm_head"])
    adapted = {name.split(".lora_")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert adapted == {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "lm_head"}
    assert token_logprobs(model, only_batch(), 1.0).requires_grad


def test_adapters_are_counted_without_memory_for_the_model():
    with torch.device("meta"):
        model = build_model()
    assert count_parameters(model, LoraConfig(**LORA), "tiny") == NUM_ADAPTER_PARAMETERS


@pytest.mark.parametrize("name", ["Qwen2", "Mixtral", "Phi-3", "gpt-oss", "DeepSeek-V3", "Falcon-H1"])
def test_what_is_fused_renamed_tied_or_a_buffer_is_published_and_exported_too(name, tmp_path):
    base = architectures.save(architectures.by_name(name), tmp_path / "base")
    settings = {"learning_rate": 2e-2, "warmup_steps": 0, "parity_share": 1.0}
    objective = ObjectiveConfig(name="bon", num_select=2)
    learner = Learner(str(base), LearnerConfig(**settings, lora=LoraConfig(**LORA)), objective, 1.0, seed=0)
    of_all = Learner(str(base), LearnerConfig(**settings), objective, 1.0, seed=0)
    assert learner.manifest == of_all.manifest
    assert learner.published.fingerprint == of_all.published.fingerprint
    before = learner.published.fingerprint
    learner.train_step(batch(0))
    learner.save(tmp_path / "saved")
    export_merged(tmp_path / "saved/model", tmp_path / "merged")
    merged = Learner(str(tmp_path / "merged"), LearnerConfig(**settings), objective, 1.0, seed=0)
    assert merged.published.fingerprint == learner.published.fingerprint != before
    assert torch.equal(
        merged._policy.logprobs_alone(only_batch(3)), learner._policy.logprobs_alone(only_batch(3))
    )
