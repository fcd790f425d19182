"""The receiving side of an adapter: vLLM's own path for low-rank adapters, which has one, and all sequences go through it.

It is not swapped by vLLM's protocol of weight updates, whose end removes every adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import torch
from vllm.config.lora import MaxLoRARanks
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from actors.weights.adapter import adapted_layers, adapter_fingerprint

NUMBER = 1
"""vLLM's of the adapter."""


def adapter_request() -> LoRARequest:
    """What every sequence is sampled with. Its files are never read: the adapter is there before any sequence."""
    return LoRARequest(lora_name="policy", lora_int_id=NUMBER, lora_path="/none")


def adapter_arguments(rank: int) -> dict[str, Any]:
    """Of `vllm.EngineArgs`, for one adapter of that rank; vLLM makes room for one of the next power of two."""
    most = min(one for one in get_args(MaxLoRARanks) if one >= rank)
    return {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": most}


def put_nothing(model_runner: Any) -> None:
    """An adapter of zeros, as long as there is no other."""
    manager = model_runner.lora_manager
    manager.add_dummy_lora(adapter_request(), rank=1)
    manager._adapter_manager.activate_adapter(NUMBER)


@torch.no_grad()
def put(model_runner: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """The adapter of these tensors (copied) in place of the one before. Raises ValueError for layers without a place for one."""
    manager = model_runner.lora_manager._adapter_manager
    mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
    rename = mapper.get_rename_mapper().apply_list if mapper is not None else list
    layers = {}
    for name, (down, up) in adapted_layers(tensors).items():
        (ours,) = rename([name])
        layers[ours] = LoRALayerWeights(ours, down.shape[0], down.shape[0], down.clone(), up.clone())
    places = {*manager.modules, *(part for parts in manager.packed_modules.values() for part in parts)}
    if unknown := sorted(layers.keys() - places):
        raise ValueError(
            f"vLLM's {type(manager.model).__name__} has no place for an adapter of {unknown[0]!r} ({len(unknown)} such layers): "
            "leave it out of learner.lora.target, or set learner.lora.publish = 'merged'"
        )
    rank = max(one.rank for one in layers.values())
    manager.remove_adapter(NUMBER)
    manager.add_adapter(LoRAModel(NUMBER, rank, layers))
    manager.activate_adapter(NUMBER)
    if not current_platform.is_cpu():
        torch.accelerator.synchronize()  # the thread that adds up the fingerprint has another stream


@torch.no_grad()
def held_fingerprint(model_runner: Any) -> int:
    """Of what the layers hold of the adapter, padding of zeros included; 0 while it is not active."""
    return adapter_fingerprint(_held(model_runner.lora_manager._adapter_manager))


def _held(manager: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    if NUMBER not in manager.lora_index_to_id:
        return
    slot = manager.lora_index_to_id.index(NUMBER)
    seen: set[int] = set()
    for layer in manager.modules.values():
        for down, up in zip(
            getattr(layer, "lora_a_stacked", ()), getattr(layer, "lora_b_stacked", ()), strict=True
        ):
            if down.data_ptr() not in seen:
                seen.add(down.data_ptr())
                yield down[slot], up[slot]
