"""The receiving side of the weight broadcast: a weight-transfer engine inside vLLM's worker.

vLLM's own protocol is used as it is: `start_weight_update`, `update_weights`,
`finish_weight_update`. Registered under `BACKEND` when this module is imported, which vLLM does
before it builds the engine because the module is named in `worker_extension_cls`.

The buckets arrive as numpy arrays mapped from Ray's object store (shared memory on the node), so
nothing is copied before `load_weights` copies into the live parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers import utils as layer_utils
from vllm.platforms import current_platform

from actors.weights.fingerprint import param_fingerprint
from actors.weights.manifest import WeightManifest, views

BACKEND = "bonfire_object_store"
EXTENSION = "actors.weights.receiver.FingerprintExtension"

_pack_for_cpu = layer_utils.dispatch_cpu_unquantized_gemm


def keep_live_parameters() -> None:
    """Make vLLM's CPU build keep each linear layer's parameter beside its packed copy.

    Stock vLLM frees the parameter when it packs for oneDNN; an update then has nothing to load
    into, and a tied `lm_head` would silently keep the old weights. Call it before the engine is
    built. No effect on CUDA.
    """
    if current_platform.is_cpu():
        layer_utils.dispatch_cpu_unquantized_gemm = _pack_and_keep


def _pack_and_keep(layer: torch.nn.Module, remove_weight: bool) -> None:
    _pack_for_cpu(layer, remove_weight=False)


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
            self.model.load_weights(views(update_info.manifest, update_info.buckets))  # type: ignore[operator]

    def finish_weight_update(self) -> None:
        if not current_platform.is_cpu():
            return
        with torch.no_grad():
            for module in self.model.modules():
                if hasattr(module, "cpu_linear"):
                    _pack_for_cpu(module, remove_weight=False)

    def shutdown(self) -> None:
        pass


class FingerprintExtension:
    """Adds to vLLM's worker the remote call that tells which weights it really holds."""

    model_runner: Any

    def weights_fingerprint(self) -> int:
        return param_fingerprint(self.model_runner.get_model().named_parameters())


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreTransfer)
