"""The receiving side of the weight broadcast: a weight-transfer engine inside vLLM's worker.

vLLM's own protocol is used as it is: `start_weight_update`, `update_weights`,
`finish_weight_update`. Registered under `BACKEND` when this module is imported, which vLLM does in each of an engine's
processes before it loads the model, because the module is named in `worker_extension_cls`; `prepare_vllm` is called then.

The buckets arrive as numpy arrays mapped from Ray's object store (shared memory on the node). On the CPU linear layers'
weights are made ready from them while the engine samples, packed for its kernels (`stage`), so that between two
steps they only take the places of the old ones. What is left, and all of a GPU's, is loaded between the two steps by
vLLM's own `load_weights` into the live parameters.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
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
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader import weight_utils
from vllm.platforms import current_platform

from actors.weights import adapter_receiver
from actors.weights.fingerprint import add_fingerprints, param_fingerprint
from actors.weights.manifest import WeightManifest, flat_tensors, views
from actors.weights.parallel import counted
from actors.weights.shared_memory import SharedBuckets
from actors.weights.staging import LoadingWatch, StagedWeight, StagingPlan

BACKEND = "bonfire_object_store"
EXTENSION = "actors.weights.receiver.FingerprintExtension"

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl."""
LOADED_FINGERPRINT = "bonfire_loaded_fingerprint"
"""Attribute of an engine's parameter that is not what was loaded but computed from it."""

_pack_for_cpu = layer_utils.dispatch_cpu_unquantized_gemm
_turn_on_cpu = RotaryEmbedding.forward_cpu


def prepare_vllm() -> None:
    """Make vLLM able to take updates, and to tell what it took. Call it before the engine is built.

    - The CPU build frees each linear layer's parameter when it packs it for oneDNN; an update then has nothing
      to load into, and a tied `lm_head` would silently keep the old weights. It is kept beside its packed copy. An
      embedding is packed only where it is also a linear layer, which shows when it is first used as one.
    - Where a parameter is computed from the loaded one (a state-space model's A is -exp(A_log)), the
      fingerprint of what was loaded is kept with it.
    - The CPU build's rotary kernel turns the wrong elements of tensors with an axis of heads (DeepSeek's). It is
      given them without.
    """
    weight_utils.composed_weight_loader = _remembering_weight_loader  # type: ignore[assignment]
    if current_platform.is_cpu():
        layer_utils.dispatch_cpu_unquantized_gemm = _pack_and_keep
        RotaryEmbedding.forward_cpu = _turn_flat  # type: ignore[method-assign]


def end_with_parent() -> None:
    """Have the kernel kill this process, one of an engine's parts, with the thread that started it: it may stand still then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _turn_flat(
    self: RotaryEmbedding, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    flat_key = None if key is None else key.flatten(1)
    turned, turned_key = _turn_on_cpu(self, positions, query.flatten(1), flat_key)
    return turned.view_as(query), None if key is None or turned_key is None else turned_key.view_as(key)


def _pack_and_keep(layer: torch.nn.Module, remove_weight: bool) -> None:
    if isinstance(layer, VocabParallelEmbedding) and not isinstance(layer, ParallelLMHead):
        layer.cpu_linear = _PackingAtFirstUse(layer)  # type: ignore[assignment]
    else:
        _pack_for_cpu(layer, remove_weight=False)


class _PackingAtFirstUse:
    """Stands where a layer's packed multiplication is to be."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self, *arguments: Any) -> torch.Tensor:
        _pack_for_cpu(self._layer, remove_weight=False)
        return self._layer.cpu_linear(*arguments)


def _packed(weight: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The multiplication by this weight, packed, that vLLM would give a layer which has it."""
    layer: Any = SimpleNamespace(weight=weight)
    _pack_for_cpu(layer, remove_weight=False)
    return layer.cpu_linear


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
    buckets: Sequence[np.ndarray] | SharedBuckets
    """Shared where the engine has several processes."""

    @property
    def arrays(self) -> Sequence[np.ndarray]:
        return self.buckets.mapped() if isinstance(self.buckets, SharedBuckets) else self.buckets


@dataclass(slots=True)
class _Exchange:
    """A weight, and its packed multiplication in each layer that has it, in place of the model's own."""

    parameter: torch.Tensor
    weight: torch.Tensor
    linear_of: dict[Any, Callable[..., torch.Tensor]]

    def make(self) -> None:
        """The model gets what this has, and this what the model had."""
        self.parameter.data, self.weight = self.weight, self.parameter.data
        for layer, linear in self.linear_of.items():
            self.linear_of[layer], layer.cpu_linear = layer.cpu_linear, linear


class ObjectStoreTransfer(WeightTransferEngine[ObjectStoreInit, ObjectStoreUpdate]):
    """Puts flat buckets into the live model. What each update needs of vLLM's protocol is called between two steps."""

    init_info_cls = ObjectStoreInit
    update_info_cls = ObjectStoreUpdate

    _plan: StagingPlan | None = None
    """None before the first update, which is loaded whole."""
    _exchanges: Sequence[_Exchange] = ()
    """Of the update that is staged, or of the one served."""

    def init_transfer_engine(self, init_info: ObjectStoreInit) -> None:
        pass

    @torch.no_grad()
    def stage(self, update: ObjectStoreUpdate) -> None:
        """Make an update ready as far as the engine need not wait for it; it samples meanwhile, and nothing changes for it."""
        self._exchanges = ()
        flats = flat_tensors(update.manifest, update.arrays)
        if self._plan is not None and self._plan.manifest == update.manifest:
            stage = partial(self._staged, flats=flats, layers=self._linear_layers())
            # Two where a kernel has one thread: the learner has just published, and may leave a core idle.
            with ThreadPoolExecutor(1 if torch.get_num_threads() > 1 else 2) as pool:
                self._exchanges = list(pool.map(stage, self._plan.weights))

    def release(self) -> None:
        """Free what a staged update has replaced."""
        self._exchanges = ()

    def start_weight_update(self) -> None:
        pass

    @torch.no_grad()
    def receive_weights(self, update_info: ObjectStoreUpdate) -> None:
        """Load what is not staged; an update for which there is no plan yet whole."""
        for _, weight in self._packed_experts():
            weight.zero_()  # the packed zeros of padding are not where the loader leaves padding
        for module in self._packed_convolutions():
            module.weight.data = module._cpu_unpacked_conv_weight[:, None]
        model: Any = self.model
        buckets = update_info.arrays
        tensors = views(update_info.manifest, buckets)
        if self._plan is not None and self._plan.manifest == update_info.manifest:
            left = self._plan.left
            model.load_weights((name, tensor) for name, tensor in tensors if name in left)
        elif current_platform.is_cpu():
            weights = self._writable_weights()
            with LoadingWatch(weights, update_info.manifest, buckets) as watch:
                model.load_weights(tensors)
            self._plan = watch.plan()
        else:
            model.load_weights(tensors)

    @torch.no_grad()
    def finish_weight_update(self) -> None:
        """Serve what is staged, and compute again what vLLM computed from the rest when it loaded it first."""
        for exchange in self._exchanges:
            exchange.make()
        if current_platform.is_cpu():
            ready = {layer for exchange in self._exchanges for layer in exchange.linear_of}
            for layer in self._linear_layers():
                if layer not in ready:
                    _pack_for_cpu(layer, remove_weight=False)
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
        if not current_platform.is_cpu():
            torch.accelerator.synchronize()  # the thread that adds up the fingerprint has another stream

    @torch.no_grad()
    def _staged(
        self, planned: StagedWeight, flats: Sequence[torch.Tensor], layers: Sequence[Any]
    ) -> _Exchange:
        weight = planned.of(flats)
        linear_of = {layer: _packed(weight) for layer in layers if layer.weight is planned.parameter}
        return _Exchange(planned.parameter, weight, linear_of)

    def _linear_layers(self) -> list[Any]:
        """Those that multiply by a weight which the CPU build packs."""
        return [
            module
            for module in self.model.modules()
            if hasattr(module, "cpu_linear") and not isinstance(module.cpu_linear, _PackingAtFirstUse)
        ]

    def _writable_weights(self) -> list[torch.Tensor]:
        """The weights of linear layers and embeddings, none of which is a bucket's memory any more."""
        if self._plan is not None:
            for planned in self._plan.weights:
                planned.parameter.data = planned.parameter.data.clone()
        layers: list[Any] = [module for module in self.model.modules() if hasattr(module, "cpu_linear")]
        weights = {id(layer.weight): layer.weight for layer in layers}
        return [weight for weight in weights.values() if weight.ndim == 2 and weight.is_contiguous()]

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
    """Adds to vLLM's worker the remote calls that stage an update and tell which weights it really holds.

    Where an engine has several workers, which take one call after the other, what is to go on beside sampling is begun
    (`begin_beside`) by one call and its result taken (`take_beside`) by a later one.
    """

    model_runner: Any
    weight_transfer_engine: ObjectStoreTransfer
    _beside: ThreadPoolExecutor | None = None
    _begun: Future[Any] | None = None

    def begin_beside(self, method: str, arguments: Sequence[Any]) -> None:
        """Start a method of this class in a thread; one at a time."""
        if self._beside is None:
            self._beside = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._begun = self._beside.submit(getattr(self, method), *arguments)

    def take_beside(self) -> tuple[bool, Any]:
        """Whether what was begun is done, and then its result. Raises what it has raised."""
        assert self._begun is not None, "nothing was begun"
        return (True, self._begun.result()) if self._begun.done() else (False, None)

    def stage_weights(self, manifest: WeightManifest, buckets: Sequence[np.ndarray] | SharedBuckets) -> None:
        """To be called while the engine samples, before vLLM's protocol is run between two steps."""
        self.weight_transfer_engine.stage(ObjectStoreUpdate(manifest=manifest, buckets=buckets))

    def release_replaced_weights(self) -> None:
        self.weight_transfer_engine.release()

    def put_no_adapter(self) -> None:
        """To be called before the first sequence of an engine that takes adapters."""
        adapter_receiver.put_nothing(self.model_runner)

    def put_adapter(self, manifest: WeightManifest, buckets: Sequence[np.ndarray]) -> None:
        """To be called between two steps."""
        adapter_receiver.put(self.model_runner, dict(views(manifest, buckets)))

    def weights_fingerprint(self) -> int:
        """Of what a checkpoint gives: parameters and persistent buffers, but for those that vLLM adds; and of an adapter.

        Those are an attention layer's own (latent attention's parts of kv_b_proj) and what begins with `_` (scales of
        its cache). What several parts of an engine hold alike one of them counts (`actors.weights.parallel`).
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
        adapter = adapter_receiver.held_fingerprint(self.model_runner) if self.model_runner.lora_config else 0
        return add_fingerprints([param_fingerprint(counted(model, held)), *computed.values(), adapter])


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreTransfer)
prepare_vllm()
if multiprocessing.parent_process() is not None:
    end_with_parent()
