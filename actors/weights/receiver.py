"""The receiving side of the weight broadcast: a weight-transfer engine inside vLLM's worker.

vLLM's own protocol is used as it is: `start_weight_update`, `update_weights`,
`finish_weight_update`. Registered under `BACKEND` when this module is imported, which vLLM does
before it builds the engine because the module is named in `worker_extension_cls`.

The buckets arrive as numpy arrays mapped from Ray's object store (shared memory on the node), so
nothing is copied before `load_weights` copies into the live parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm._custom_ops import cpu_prepack_moe_weight
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers import utils as layer_utils
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.rotary_embedding import RotaryEmbedding
from vllm.model_executor.model_loader import weight_utils
from vllm.platforms import current_platform

from actors.weights.fingerprint import add_fingerprints, param_fingerprint
from actors.weights.manifest import WeightManifest, views

BACKEND = "bonfire_object_store"
EXTENSION = "actors.weights.receiver.FingerprintExtension"

LOADED_FINGERPRINT = "bonfire_loaded_fingerprint"
"""Attribute of an engine's parameter that is not what was loaded but computed from it."""

_pack_for_cpu = layer_utils.dispatch_cpu_unquantized_gemm
_turn_on_cpu = RotaryEmbedding.forward_cpu


def prepare_vllm() -> None:
    """Make vLLM able to take updates, and to tell what it took. Call it before the engine is built.

    - The CPU build frees each linear layer's parameter when it packs it for oneDNN; an update then has nothing
      to load into, and a tied `lm_head` would silently keep the old weights. It is kept beside its packed copy.
    - Where a parameter is computed from the loaded one (a state-space model's A is -exp(A_log)), the
      fingerprint of what was loaded is kept with it.
    - The CPU build's rotary kernel turns the wrong elements of tensors with an axis of heads (DeepSeek's). It is
      given them without.
    """
    weight_utils.composed_weight_loader = _remembering_weight_loader  # type: ignore[assignment]
    if current_platform.is_cpu():
        layer_utils.dispatch_cpu_unquantized_gemm = _pack_and_keep
        RotaryEmbedding.forward_cpu = _turn_flat  # type: ignore[method-assign]


def _turn_flat(
    self: RotaryEmbedding, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    flat_key = None if key is None else key.flatten(1)
    turned, turned_key = _turn_on_cpu(self, positions, query.flatten(1), flat_key)
    return turned.view_as(query), None if key is None or turned_key is None else turned_key.view_as(key)


def _pack_and_keep(layer: torch.nn.Module, remove_weight: bool) -> None:
    _pack_for_cpu(layer, remove_weight=False)


def _remembering_weight_loader(
    loader: Callable[[torch.Tensor, torch.Tensor], None], compute: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """vLLM's `composed_weight_loader`, which also notes what it computed from."""

    def load(parameter: torch.Tensor, loaded_weight: torch.Tensor) -> None:
        loader(parameter, loaded_weight)
        setattr(parameter, LOADED_FINGERPRINT, param_fingerprint({"": parameter}))
        parameter.data.copy_(compute(parameter))

    return load


@dataclass
class ObjectStoreInit(WeightTransferInitInfo):
    """The object store needs no rendezvous."""


@dataclass
class ObjectStoreUpdate(WeightTransferUpdateInfo):
    manifest: WeightManifest
    buckets: Sequence[np.ndarray]


class ObjectStoreTransfer(WeightTransferEngine[ObjectStoreInit, ObjectStoreUpdate]):
    """Loads flat buckets into the live model, then packs again what the CPU kernels keep packed."""

    init_info_cls = ObjectStoreInit
    update_info_cls = ObjectStoreUpdate

    def init_transfer_engine(self, init_info: ObjectStoreInit) -> None:
        pass

    def start_weight_update(self) -> None:
        pass

    def receive_weights(self, update_info: ObjectStoreUpdate) -> None:
        with torch.no_grad():
            for _, weight in self._packed_experts():
                weight.zero_()  # the packed zeros of padding are not where the loader leaves padding
            for module in self._packed_convolutions():
                module.weight.data = module._cpu_unpacked_conv_weight[:, None]
            self.model.load_weights(views(update_info.manifest, update_info.buckets))  # type: ignore[operator]

    def finish_weight_update(self) -> None:
        """Compute again what vLLM computed from the weights when it loaded them first."""
        with torch.no_grad():
            if current_platform.is_cpu():
                for module in self.model.modules():
                    if hasattr(module, "cpu_linear"):
                        _pack_for_cpu(module, remove_weight=False)
                for module in self._packed_convolutions():
                    _pack_for_cpu(module, remove_weight=False)
                for experts, weight in self._packed_experts():
                    weight.copy_(cpu_prepack_moe_weight(weight, experts.isa))
            else:
                for module in self.model.modules():
                    method = getattr(module, "quant_method", None)
                    if isinstance(method, UnquantizedFusedMoEMethod):
                        method.process_weights_after_loading(module)  # type: ignore[arg-type]
            for module in self.model.modules():
                if is_deferred_attention_layer(module):  # latent attention splits and transposes kv_b_proj
                    module.process_weights_after_loading(self.model_config.dtype)  # type: ignore[operator]

    def _packed_experts(self) -> Iterator[tuple[CPUUnquantizedExperts, Any]]:
        """The experts' weights that the CPU build holds in its kernel's layout, in place of the loaded one."""
        for module in self.model.modules():
            method = getattr(module, "quant_method", None)
            experts = getattr(getattr(method, "moe_kernel", None), "fused_experts", None)
            if isinstance(experts, CPUUnquantizedExperts) and not experts._use_zentorch:
                yield experts, module.w13_weight.data
                yield experts, module.w2_weight.data

    def _packed_convolutions(self) -> list[Any]:
        """Layers whose short convolution the CPU build holds in its kernel's layout, in bfloat16."""
        return [module for module in self.model.modules() if hasattr(module, "_cpu_unpacked_conv_weight")]

    def shutdown(self) -> None:
        pass


class FingerprintExtension:
    """Adds to vLLM's worker the remote call that tells which weights it really holds."""

    model_runner: Any

    def weights_fingerprint(self) -> int:
        """Of what a checkpoint gives: parameters and persistent buffers, but for those that vLLM adds.

        Those are an attention layer's own (latent attention's parts of kv_b_proj) and what begins with `_` (scales of
        its cache).
        """
        model = self.model_runner.get_model()
        added = {
            f"{path}.{name}"
            for path, module in model.named_modules()
            if is_deferred_attention_layer(module)
            for name in (*module._parameters, *module._buffers)
        }
        computed = {
            name: int(getattr(parameter, LOADED_FINGERPRINT))
            for name, parameter in model.named_parameters()
            if hasattr(parameter, LOADED_FINGERPRINT)
        }
        held = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if name not in added and name not in computed and "._" not in name
        }
        return add_fingerprints([param_fingerprint(held), *computed.values()])


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreTransfer)
