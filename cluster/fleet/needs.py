"""What a run needs of its machines: cores, memory, disk, each as an estimate that its config allows."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.config.schema import RunConfig

PROCESS_BYTES = 1.0 * 2**30
"""Resident memory of a worker process that has imported torch and vLLM, without model and cache."""
OPTIMIZER_COPIES = 4
"""Weights, gradients and AdamW's two averages, in float32."""
CHECKPOINT_COPIES = 3
"""Weights and AdamW's two averages, in float32."""


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
    if not is_to_be_made(config):
        path = model_directory(config.model)
        files = list(path.glob("*.safetensors"))
        settings = json.loads((path / "config.json").read_text())
        dtype = settings.get("dtype") or settings.get("torch_dtype") or "float32"
        return sum(file.stat().st_size for file in files) * (1 if dtype == "float32" else 2)
    s = config.sft
    assert s is not None
    per_layer = 4 * s.hidden_size**2 + 3 * s.hidden_size * s.intermediate_size
    return 4.0 * (s.num_layers * per_layer + 220 * s.hidden_size)


def memory_needed(config: RunConfig) -> dict[str, float]:
    """Estimated bytes by role, on the CPU's side, all workers together, as many as there may be."""
    weights = model_bytes(config)
    rollout, learner = config.rollout, config.learner
    num_rollouts, num_verifiers = config.most_workers
    learner_copies = learner.parity_versions
    if not learner.num_gpus:
        learner_copies += OPTIMIZER_COPIES + (learner.kl_coefficient > 0)
    if learner.ranks > 1:
        # Beside the shards rank 0 has one version in whole, and at times a checkpoint; at the start each rank
        # has all of the model.
        learner_copies = max(learner_copies + 1 + CHECKPOINT_COPIES, learner.ranks + 1)
    needed = {
        "rollout": num_rollouts * (PROCESS_BYTES + 2 * weights + rollout.kv_cache_mib * 2**20),
        "learner": learner.ranks * PROCESS_BYTES + learner_copies * weights,
        "verifier": num_verifiers * 0.15 * 2**30,
        "ray and controller": 1.2 * 2**30,
    }
    if rollout.num_gpus:
        needed["rollout"] = num_rollouts * 2 * PROCESS_BYTES
    return needed


def disk_needed(config: RunConfig) -> float:
    """Estimated bytes of checkpoints (model, two averages, one being written) and trajectories."""
    checkpoints = (config.train.keep_checkpoints + 1) * 3 * model_bytes(config)
    tokens = config.train.steps * config.train.groups_per_step * config.rollout.samples_per_prompt
    return checkpoints + tokens * min(config.rollout.max_tokens, 512) * 12 + 64 * 2**20


def is_to_be_made(config: RunConfig) -> bool:
    """Whether the model is not there yet and [sft] will make it."""
    return config.sft is not None and not Path(config.model).exists()


def model_directory(model: str) -> Path:
    """Where the model's files are on this machine; those of a hub id are fetched."""
    from learner.model.causal_lm import resolve_model

    return Path(model) if Path(model).is_dir() else resolve_model(model)
