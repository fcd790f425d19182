"""What an engine's process has in its environment. Imports no torch, which reads it when it is imported."""

from __future__ import annotations

from actors.config import RolloutConfig


def engine_environment(config: RolloutConfig) -> dict[str, str]:
    """Environment variables an engine's process needs before torch is imported."""
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
        # vLLM opens gloo groups of one process on whatever address the machine's name stands for.
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if config.num_gpus == 0:
        # Log-probs make vLLM compile its sampler even when eager: 9 s that a CPU never earns back.
        environment["TORCHDYNAMO_DISABLE"] = "1"
        environment["OMP_NUM_THREADS"] = str(max(1, int(config.num_cpus)))
    return environment
