"""What an engine's processes have in their environment, and what vLLM is told. Imports no torch, which reads it when it is
imported.
"""

from __future__ import annotations

from typing import Any

from actors.config import RolloutConfig

KV_BLOCK_TOKENS = 32
MAX_BATCHED_TOKENS = 8192
START_SHARE = 0.75
"""Of its share of a GPU, what must be free when an engine starts."""


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
    if config.num_gpus > 0:
        # The runner that the CPU build has too, so that all that is proved of engines there is proved of this one.
        environment["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from actors that asked for none
        # Log-probs make vLLM compile its sampler even when eager: 9 s that a CPU never earns back.
        environment["TORCHDYNAMO_DISABLE"] = "1"
        environment["OMP_NUM_THREADS"] = str(max(1, int(config.num_cpus / config.tensor_parallel)))
    if config.tensor_parallel > 1:
        # Its own binding wants a NUMA node for each part.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        # A part that hangs would else be waited for without end.
        environment["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] = str(max(1, int(config.heartbeat_timeout_s)))
    return environment


def batched_tokens(config: RolloutConfig) -> int:
    """Of one step, at most. vLLM's CPU kernels for adapters copy A and B once for each: there as few as it takes."""
    if isinstance(own := config.engine.get("max_num_batched_tokens"), int):
        return own
    if config.adapter_rank and not config.num_gpus:
        return max(config.max_model_len, config.max_num_seqs)
    return max(config.max_model_len, MAX_BATCHED_TOKENS)


def engine_arguments(model: str, config: RolloutConfig) -> dict[str, Any]:
    """Arguments of `vllm.EngineArgs` that follow from the settings, but for those of the weight transfer."""
    arguments: dict[str, Any] = {
        "model": model,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "dtype": config.dtype,
        "seed": 0,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "kv_cache_memory_bytes": (config.kv_cache_mib << 20) // config.tensor_parallel,
        "block_size": KV_BLOCK_TOKENS if config.num_gpus == 0 else None,
        "enforce_eager": config.num_gpus == 0,
        "enable_prefix_caching": config.prefix_caching,
        # An update makes every running sequence prefill again. vLLM cannot rewind a seeded CPU
        # generator past a partial prefill, so there each prefill is done whole.
        "enable_chunked_prefill": config.num_gpus > 0,
        "max_num_batched_tokens": batched_tokens(config),
        # A step in flight during an update would label its tokens with the wrong version.
        "async_scheduling": False,
        "scheduling_policy": "priority",
        "disable_log_stats": True,
        "logprobs_mode": "processed_logprobs",
    }
    if config.tensor_parallel > 1:
        # Ray gives the worker its GPUs; the parts are its children, so that they are on its node and end with it.
        arguments |= {
            "tensor_parallel_size": config.tensor_parallel,
            "distributed_executor_backend": "mp",
        }
    if config.num_gpus > 0:
        # vLLM refuses to start where less than this is free, which it would have be nearly all. It takes what its weights
        # and kv_cache_memory_bytes say; and others, as the driver or a desktop, have something of a GPU too.
        arguments["gpu_memory_utilization"] = START_SHARE * config.num_gpus
    return arguments | config.engine
