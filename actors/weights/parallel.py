"""Which weights of an engine's part count, where a model is divided among several processes (tensor parallelism).

Together the parts hold each element of a checkpoint once, but for what vLLM gives to all of them: norms, biases that are
added after a sum over parts, and keys' and values' heads where there are fewer than parts. Of these one part counts.
What a kind of layer that is not known here divides is taken for given to all: the fingerprint then differs from the
learner's, and the engine is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding


def counted(model: torch.nn.Module, held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of the tensors that this part holds those, or their rows, that it is to count."""
    if get_tensor_model_parallel_world_size() == 1:
        return held
    modules = dict(model.named_modules(remove_duplicate=False))
    rank = get_tensor_model_parallel_rank()
    found = {}
    for name, tensor in held.items():
        path, _, leaf = name.rpartition(".")
        found[name] = tensor[: _rows(modules[path], leaf, tensor, rank)]
    return found


def _rows(module: Any, leaf: str, tensor: torch.Tensor, rank: int) -> int:
    """How many of its first rows count here."""
    all_rows = tensor.shape[0] if tensor.ndim else 0
    if isinstance(module, QKVParallelLinear) and module.tp_size > 1:
        with_keys = rank % module.num_kv_head_replicas == 0
        return all_rows if with_keys else module.num_heads * module.head_size
    is_divided = (
        isinstance(module, VocabParallelEmbedding)
        or (isinstance(module, ColumnParallelLinear) and module.tp_size > 1)
        or (isinstance(module, RowParallelLinear) and module.tp_size > 1 and leaf == "weight")
        or (isinstance(module, RoutedExperts) and leaf.startswith(("w13_", "w2_weight")))
    )
    return all_rows if is_divided or rank == 0 else 0
