"""`[rollout.engine]`: arguments of vLLM's own, and those among them that are not a user's to set. Imports no vLLM."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from verifiers.number_config import not_finite
from verifiers.section_config import did_you_mean

ENGINE_ARGUMENTS = "EngineArgs"
_BECAUSE = {
    "set model": ("model",),
    "set rollout.dtype": ("dtype",),
    "set rollout.max_model_len": ("max_model_len",),
    "set rollout.max_num_seqs": ("max_num_seqs",),
    "set rollout.prefix_caching": ("enable_prefix_caching",),
    "set rollout.kv_cache_mib": (
        "kv_cache_memory_bytes", "gpu_memory_utilization", "num_gpu_blocks_override",
    ),
    "every group has a seed of its own; set train.seed": ("seed",),
    "set rollout.tensor_parallel": ("tensor_parallel_size",),
    "Ray gives an engine its devices; set rollout.workers, rollout.num_gpus and rollout.tensor_parallel": (
        "pipeline_parallel_size", "prefill_context_parallel_size",
        "decode_context_parallel_size", "data_parallel_size", "data_parallel_rank", "data_parallel_start_rank",
        "data_parallel_size_local", "data_parallel_address", "data_parallel_rpc_port", "data_parallel_hybrid_lb",
        "data_parallel_external_lb", "data_parallel_multi_port_external_lb", "data_parallel_backend",
        "enable_expert_parallel", "enable_elastic_ep", "distributed_executor_backend", "master_addr", "master_port",
        "nnodes", "node_rank", "device_ids", "ray_workers_use_nsight",
    ),
    "engine and learner must read the same files in the same way; set model to a directory": (
        "model_weights", "hf_config_path", "hf_overrides", "model_class_overrides", "config_format", "revision",
        "code_revision", "load_format", "model_loader_extra_config", "ignore_patterns", "download_dir",
        "pt_load_map_location",
    ),
    "an engine must hold exactly the weights that are published; set rollout.dtype": (
        "quantization", "quantization_config", "allow_deprecated_quantization",
    ),
    "set learner.lora": (
        "enable_lora", "default_mm_loras", "max_loras", "max_lora_rank", "max_cpu_loras", "fully_sharded_loras",
        "lora_dtype", "lora_target_modules", "enable_tower_connector_lora", "specialize_active_lora",
        "enable_mixed_moe_lora_format", "enable_moe_shared_loras",
    ),
    "an engine gets and gives token ids, those of the model's tokenizer; see rollout.chat": (
        "tokenizer", "tokenizer_mode", "tokenizer_revision", "skip_tokenizer_init", "tokens_only",
    ),
    "samples come from the whole distribution at rollout.temperature, with its log-probs": (
        "logprobs_mode", "max_logprobs", "logits_processors", "generation_config", "override_generation_config",
        "runner", "convert", "pooler_config", "watermark_config", "diffusion_config",
    ),
    "a group that is trained earlier is sampled first": ("scheduling_policy",),
    "the system updates weights and KV between two steps, and labels every token; see rollout.kv_after_update": (
        "async_scheduling", "weight_transfer_config", "worker_cls", "worker_extension_cls", "scheduler_cls",
        "enable_chunked_prefill", "enable_sleep_mode", "kv_transfer_config", "ec_transfer_config", "kv_offloading_size",
        "kv_offloading_backend",
    ),
    "nothing of a model or a prompt may run code or read files here": (
        "trust_remote_code", "enable_prompt_embeds", "allowed_local_media_path", "allowed_media_domains",
        "io_processor_plugin", "reasoning_parser_plugin",
    ),
    "a secret has no place in a settings file; put it into the environment as HF_TOKEN": ("hf_token",),
    "see metrics.port for what an engine does": ("disable_log_stats",),
}  # fmt: skip
DECIDED = {name: why for why, names in _BECAUSE.items() for name in names}
"""Arguments that the system decides, and what to do instead."""


def _is_free(arguments: dict[str, Any]) -> dict[str, Any]:
    faults = [
        f"{name}{'' if name == 'hf_token' else f' = {arguments[name]!r}'} is not yours to set: {DECIDED[name]}"
        for name in arguments
        if name in DECIDED
    ]
    if place := not_finite(arguments):
        faults.append(f"{place} is not finite: give a large number, or leave it out")
    if faults:
        raise ValueError("\n".join(faults))
    return arguments


EngineArguments = Annotated[
    dict[str, Any],
    AfterValidator(_is_free),
    Field(
        description="Further arguments of the engine, by vLLM's own names (vllm.EngineArgs), nested tables included, "
        "such as { max_num_batched_tokens = 16384 }. What the system decides itself is refused."
    ),
]


def known_arguments() -> frozenset[str]:
    """Names of vLLM's arguments, read from its source: importing it takes seconds. Empty where it is not installed."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return frozenset()
    source = Path(found.submodule_search_locations[0], "engine", "arg_utils.py")
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == ENGINE_ARGUMENTS:
            fields = [statement.target for statement in node.body if isinstance(statement, ast.AnnAssign)]
            return frozenset(field.id for field in fields if isinstance(field, ast.Name))
    return frozenset()


def check_known(arguments: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises ValueError, a line for each name that vLLM does not know."""
    allowed = [name for name in known if name not in DECIDED and not name.startswith("_")]
    faults = [
        f"rollout.engine.{name} = {value!r}: vLLM has no such argument"
        f"{did_you_mean(name, allowed, prefix='rollout.engine.')}; remove it or see vllm.EngineArgs"
        for name, value in arguments.items()
        if name not in allowed
    ]
    if faults:
        raise ValueError("\n".join(faults))
