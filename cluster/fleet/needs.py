"""What a run needs of its machines: cores, memory, disk, each as an estimate that its config allows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from actors.model_files import CONFIG, read_object, text_settings
from cluster.config.schema import RunConfig
from learner.config import LoraConfig
from learner.model import memory
from learner.supervised.config import SftConfig

PROCESS_BYTES = 1.0 * 2**30
"""Resident memory of a worker process that has imported torch and vLLM, without model and cache."""
LEARNER_PROCESS_BYTES = 0.6 * 2**30
"""The same of a learner, which imports no vLLM."""
CHECKPOINT_COPIES = 3
"""What is trained and AdamW's two averages."""
STORED_VERSIONS = 3
"""Weights in the object store at a time: being packed, being sent, still held by a slow engine."""
MERGED_VERSIONS = 2
"""Of adapted weights: the one that is published, and the one before, which the next is written over."""


def cpus_needed(config: RunConfig) -> float:
    """CPU cores that the workers of a run reserve, when there are as many as there may be."""
    rollouts, verifiers = config.most_workers
    return (
        rollouts * config.rollout.num_cpus
        + verifiers * config.verifier.num_cpus
        + config.learner.ranks * config.learner.num_cpus
    )


def model_bytes(config: RunConfig) -> float:
    """Bytes of the model in float32."""
    if not is_from_scratch(config):
        path = model_directory(described_by(config))
        files = list(path.glob("*.safetensors"))
        settings = read_object(path / CONFIG)
        dtype = settings.get("dtype") or settings.get("torch_dtype") or "float32"
        return sum(file.stat().st_size for file in files) * (1 if dtype == "float32" else 2)
    s = config.sft
    assert s is not None
    per_layer = 4 * s.hidden_size**2 + 3 * s.hidden_size * s.intermediate_size
    return 4.0 * (s.num_layers * per_layer + 220 * s.hidden_size)


def published_bytes(config: RunConfig) -> float:
    """Bytes of one version that engines are given, in float32."""
    if config.learner.rank_apart:
        return memory.FLOAT32_BYTES * num_adapter_parameters(config)
    return model_bytes(config)


def memory_needed(config: RunConfig, free_bytes: float | None = None) -> dict[str, float]:
    """Estimated bytes by role, on the CPU's side, all workers together, as many as there may be.

    `free_bytes`: what is free now, by which `learner.recompute = "auto"` decides; None: it need not.
    """
    rollout, *others = _beside_learner(config).items()
    return dict([rollout, ("learner", learner_memory(config, free_bytes)), *others])


def learner_memory(config: RunConfig, free_bytes: float | None = None) -> float:
    """Estimated bytes of all ranks: weights, optimizer, kept versions, and the largest pass, on the CPU's side."""
    needed = _learner_without_passes(config)
    if not config.learner.num_gpus:
        needed += config.learner.ranks * largest_pass(config, free_bytes)[0]
    return needed


def largest_pass(config: RunConfig, free_bytes: float | None = None) -> tuple[float, bool]:
    """Bytes that a rank's largest forward pass keeps, and whether its blocks are recomputed.

    With "auto" they are where all ranks' would not fit, together with what the run needs besides; or, as the
    learner itself decides, into its share of the machine.
    """
    learner = config.learner
    free = float("inf")
    if free_bytes is not None:
        beside = sum(_beside_learner(config).values()) + _learner_without_passes(config)
        share = free_bytes * memory.SHARE_OF_MACHINE - memory.fixed_bytes(model_shape(config), learner)
        free = min(share, free_bytes - beside) / learner.ranks
    recompute = memory.recomputes(learner, pass_bytes(config, recompute=False), free)
    return pass_bytes(config, recompute=recompute), recompute


def pass_bytes(config: RunConfig, *, recompute: bool) -> float:
    """The same, recomputed or not."""
    rollout, learner, shape = config.rollout, config.learner, model_shape(config)
    prompt = rollout.max_model_len - rollout.max_tokens
    samples = rollout.samples_per_prompt
    prompts = 1 if learner.share_prompts and not shape.carries_state else samples
    of_step = config.train.groups_per_step * (prompts * prompt + samples * rollout.max_tokens)
    positions = max(rollout.max_model_len, min(learner.micro_batch_tokens, of_step // learner.ranks))
    completion_tokens = (
        positions * samples * rollout.max_tokens // (prompts * prompt + samples * rollout.max_tokens)
    )
    return _kept_by_pass(config, positions, completion_tokens, recompute=recompute)


def fine_tuning_pass_bytes(config: RunConfig, *, recompute: bool) -> float:
    """Bytes that a rank's largest pass keeps while [sft] fine-tunes a model: all positions may be of completions."""
    positions = max(config.rollout.max_model_len, config.learner.micro_batch_tokens)
    return _kept_by_pass(config, positions, positions, recompute=recompute)


def _kept_by_pass(config: RunConfig, positions: int, completion_tokens: int, *, recompute: bool) -> float:
    learner, shape = config.learner, model_shape(config)
    return memory.activation_bytes(
        shape,
        positions=positions,
        completion_tokens=completion_tokens,
        bfloat16=learner.dtype == "bfloat16",
        recompute=recompute,
        cast=memory.num_cast(shape, learner),
    )


def fine_tuning_memory(config: RunConfig) -> float:
    """Estimated bytes of all ranks while [sft] fine-tunes a model, on the CPU's side; "auto" recomputes where it must."""
    learner = config.learner
    needed = _trainer_without_passes(config)
    if not learner.num_gpus:
        needed += learner.ranks * fine_tuning_pass_bytes(config, recompute=learner.recompute != "never")
    return needed


def _beside_learner(config: RunConfig) -> dict[str, float]:
    """Estimated bytes of the other roles, the rollout workers first."""
    rollout = config.rollout
    num_rollouts, num_verifiers = config.most_workers
    num_parts = rollout.tensor_parallel
    processes = PROCESS_BYTES * (1 if num_parts == 1 else 1 + num_parts)
    if rollout.num_gpus:
        of_one = processes + num_parts * PROCESS_BYTES
    else:
        of_one = processes + 2 * model_bytes(config) + rollout.kv_cache_mib * 2**20
    if num_parts > 1:  # a version, and on the CPU the one before, in memory that the parts map
        size = memory.bytes_of(rollout.dtype)
        of_one += (1 if rollout.num_gpus else 2) * published_bytes(config) / memory.FLOAT32_BYTES * size
    # In the object store; on the CPU engines map these versions, and they are counted with them.
    stored = STORED_VERSIONS * published_bytes(config) / memory.FLOAT32_BYTES * memory.bytes_of(rollout.dtype)
    return {
        "rollout": num_rollouts * of_one,
        "verifier": num_verifiers * 0.15 * 2**30,
        "ray and controller": 1.2 * 2**30 + (stored if rollout.num_gpus else 0.0),
    }


def _learner_without_passes(config: RunConfig) -> float:
    """Estimated bytes of all ranks between their passes."""
    learner, shape = config.learner, model_shape(config)
    num_kept = learner.parity_versions or 1
    size = memory.bytes_of(learner.publish_dtype)
    if learner.lora is None:
        kept = num_kept * size * shape.num_parameters
    else:
        merged = 0 if learner.rank_apart else MERGED_VERSIONS * size * shape.num_parameters
        kept = merged + num_kept * memory.FLOAT32_BYTES * shape.num_adapter_parameters
    return kept + _trainer_without_passes(config)


def _trainer_without_passes(config: RunConfig) -> float:
    """The same, but for versions that are published."""
    learner, shape = config.learner, model_shape(config)
    needed = learner.ranks * LEARNER_PROCESS_BYTES
    if learner.num_gpus:
        # Rank 0 puts a checkpoint together here, and each rank loads the model here before it has it on its GPU.
        stored = CHECKPOINT_COPIES * memory.stored_bytes(learner) * shape.num_trained
        loaded = learner.ranks * memory.FLOAT32_BYTES * shape.num_parameters
        return needed + max(stored, loaded)
    fixed = memory.fixed_bytes(shape, learner)
    if learner.ranks > 1:
        # Beside the shards rank 0 has one version in whole, and at times a checkpoint; at the start each rank
        # has all of the model.
        whole = memory.FLOAT32_BYTES * shape.num_parameters
        stored = CHECKPOINT_COPIES * memory.stored_bytes(learner) * shape.num_trained
        fixed = max(fixed + whole + stored, learner.ranks * whole)
    return needed + fixed


def model_shape(config: RunConfig) -> memory.ModelShape:
    """Sizes of the run's model, also where [sft] will make it."""
    num_parameters = model_bytes(config) / memory.FLOAT32_BYTES
    if not is_from_scratch(config):
        directory = model_directory(described_by(config))
        return memory.ModelShape.read(directory, num_parameters, num_adapter_parameters(config))
    s = config.sft
    assert s is not None
    settings = {
        "num_hidden_layers": s.num_layers,
        "hidden_size": s.hidden_size,
        "num_attention_heads": s.num_heads,
        "intermediate_size": s.intermediate_size,
        "vocab_size": 110,
    }
    return memory.ModelShape.of(settings, num_parameters, num_adapter_parameters(config))


def num_adapter_parameters(config: RunConfig) -> int:
    """What is trained with [learner.lora], else 0. Raises ValueError where its target names what the model has not."""
    if config.learner.lora is None:
        return 0
    if is_from_scratch(config):
        assert config.sft is not None
        return _count_of_countdown(config.sft, config.learner.lora)
    name = described_by(config)
    return _count_of_model(model_directory(name), name, config.learner.lora)


@lru_cache
def _count_of_model(directory: Path, name: str, lora: LoraConfig) -> int:
    from learner.model.fit import check_architecture, on_meta
    from learner.model.lora import count_parameters

    return count_parameters(on_meta(check_architecture(directory, name)), lora, name)


@lru_cache
def _count_of_countdown(sft: SftConfig, lora: LoraConfig) -> int:
    import torch

    from learner.model.lora import count_parameters
    from learner.sft import build_model

    with torch.device("meta"):
        model = build_model(sft)
    return count_parameters(model, lora, "made by [sft]")


def disk_needed(config: RunConfig) -> float:
    """Estimated bytes of checkpoints (model, two averages, one being written; the best, and one that may be) and
    trajectories.
    """
    num_best = 2 if config.train.keep_best else 0
    learner, merged = config.learner, 0.0
    num_trained = num_adapter_parameters(config) or model_bytes(config) / memory.FLOAT32_BYTES
    of_one = CHECKPOINT_COPIES * memory.stored_bytes(learner) * num_trained
    if learner.lora is not None and config.evaluation and not learner.rank_apart:
        # The last policy, and the best.
        size = memory.bytes_of(config.rollout.dtype)
        merged = 2 * size * model_bytes(config) / memory.FLOAT32_BYTES
    checkpoints = (config.train.keep_checkpoints + 1 + num_best) * of_one + merged
    tokens = config.train.steps * config.train.groups_per_step * config.rollout.samples_per_prompt
    return checkpoints + tokens * min(config.rollout.max_tokens, 512) * 12 + 64 * 2**20


def is_from_scratch(config: RunConfig) -> bool:
    """Whether the model is not there yet and [sft] will make it of nothing."""
    return config.sft is not None and config.sft.base_model is None and not Path(config.model).exists()


def described_by(config: RunConfig) -> str:
    """The model whose files say what the run's is like: its own, or that which [sft] has yet to fine-tune."""
    if config.sft is not None and config.sft.base_model is not None and not Path(config.model).exists():
        return config.sft.base_model
    return config.model


def settings_of_model(config: RunConfig) -> Mapping[str, Any]:
    """Those of its language model, by its config.json; of one that is there, or that [sft] fine-tunes."""
    return text_settings(read_object(model_directory(described_by(config)) / CONFIG))


def model_directory(model: str) -> Path:
    """Where the model's files are on this machine; those of a hub id are fetched."""
    from learner.model.causal_lm import resolve_model

    return Path(model) if Path(model).is_dir() else resolve_model(model)
