"""The policy in the learner's hands: log-probs under its weights or others, and copies of its weights.

`Policy` has the model to itself; `ShardedPolicy` is one rank's share of it, and each of its methods is
a pass or an exchange of all ranks: they must call it alike, with equally many batches.

Weights go by parameter name; of a sharded policy they are this rank's parts. Those of an adapted policy are its
adapters', all that it can have different from another time. Shape: `T` completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from actors.weights.manifest import WeightManifest, views
from learner.gang import Gang
from learner.model.logprobs import TokenLogprobs
from learner.model.names import StoredLayout, stored_buffers
from learner.model.publish import Buckets, pack, take_part
from learner.model.sharding import own_part, shard
from learner.step.batch import PackedBatch

if TYPE_CHECKING:  # they import peft
    from learner.model.lora import Adapters
    from learner.model.served_adapter import AdapterLayout

Weights = Mapping[str, torch.Tensor]


class Policy:
    """A model, the device it computes on, the dtype it computes in, and the sampling temperature."""

    def __init__(
        self,
        model: Any,
        device: torch.device,
        temperature: float,
        *,
        bfloat16: bool,
        recompute: Callable[[PackedBatch], bool],
        adapters: Adapters | None = None,
    ) -> None:
        """`recompute`: whether a batch's pass keeps its blocks' inputs only. `adapters`: the model's, of which alone it is
        then trained.
        """
        self.model = model
        self._adapters = adapters
        self.device = device
        self._temperature = temperature
        self._bfloat16 = bfloat16
        self._recompute = recompute
        self._module = TokenLogprobs(model)

    @cached_property
    def all_parameters(self) -> dict[str, torch.Tensor]:
        """The same tensors always; between the passes of a sharded model its modules may hold others."""
        return dict(self.model.named_parameters())

    @cached_property
    def parameters(self) -> dict[str, torch.Tensor]:
        """Those that are trained."""
        return {name: value for name, value in self.all_parameters.items() if value.requires_grad}

    @cached_property
    def layout(self) -> StoredLayout | AdapterLayout:
        """What is published: the weights as they are on disk and in the engines, or adapters alone."""
        return (
            self._adapters.published_layout(self.parameters) if self._adapters else StoredLayout(self.model)
        )

    @property
    def publishes_views(self) -> bool:
        """Whether weights as published may lie in the buckets."""
        return self._adapters is None

    def fingerprint_of(self, manifest: WeightManifest, buckets: Buckets, in_buckets: int) -> int:
        """Of the weights that engines have once they serve what is in the buckets, whose own is `in_buckets`."""
        if self._adapters is None or not self._adapters.apart:
            return in_buckets
        return self._adapters.fingerprint_of(manifest, buckets)

    def logprobs(self, batch: PackedBatch) -> torch.Tensor:
        """float32 [T], with a gradient."""
        with self._autocast():
            return self._module(batch, self._temperature, recompute=self._recompute(batch))

    @torch.no_grad()
    def logprobs_alone(self, batch: PackedBatch) -> torch.Tensor:
        """float32 [T], without a gradient: no backward pass follows."""
        return self.logprobs(batch)

    @torch.no_grad()
    def logprobs_under(self, weights: Weights, batches: Sequence[PackedBatch]) -> list[torch.Tensor]:
        """float32 [T] of each batch, with other weights in place of the policy's."""
        named = {
            f"policy.{name}": value.to(self.device, self.parameters[name].dtype)
            for name, value in weights.items()
        }
        with self._autocast():
            return [
                torch.func.functional_call(self._module, named, (batch.to(self.device), self._temperature))
                for batch in batches
            ]

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def copy_weights(self) -> dict[str, torch.Tensor]:
        return {name: own_part(value.detach()).clone() for name, value in self.parameters.items()}

    def publish(
        self,
        manifest: WeightManifest,
        spare: Buckets | None = None,
        note: Callable[[torch.Tensor], object] | None = None,
    ) -> tuple[Weights, Buckets]:
        """The weights rounded to the manifest's dtypes, and its buckets of all of them, which only rank 0 has: adapters
        merged.

        Both are in the CPU's memory, and may be one. `spare`: buckets to write over; `note`: called with
        each tensor in them.
        """
        buckets = pack(self.layout, self._sources, manifest, spare, note)
        return self._as_published(manifest, dict(views(manifest, buckets))), buckets

    @cached_property
    def _sources(self) -> Weights:
        if self._adapters:
            return self._adapters.published(self.all_parameters, stored_buffers(self.model))
        return {**self.parameters, **stored_buffers(self.model)}

    def _as_published(self, manifest: WeightManifest, stored: Mapping[str, torch.Tensor]) -> Weights:
        """This rank's parts, rounded: the stored tensor itself where the parameter is one, else a copy. Adapters are
        as they are: the model rounds what they are merged to.
        """
        if self._adapters:
            return {
                name: own_part(value.detach()).to("cpu", copy=True) for name, value in self.parameters.items()
            }
        dtypes = {entry.name: getattr(torch, entry.dtype) for entry in manifest.entries}
        weights: dict[str, torch.Tensor] = {}
        for group in self.layout.groups:
            if group.is_buffers:
                continue
            if group.is_plain and group.tensors[0].name in stored:
                weights[group.sources[0]] = stored[group.tensors[0].name]
                continue
            dtype = dtypes[group.tensors[0].name]
            for name in group.sources:
                weights[name] = own_part(self.parameters[name].detach()).to("cpu", dtype, copy=True)
        return weights

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16)


class ShardedPolicy(Policy):
    """One rank's share of a model, whose parameters are DTensors."""

    def __init__(
        self,
        model: Any,
        device: torch.device,
        temperature: float,
        *,
        bfloat16: bool,
        recompute: Callable[[PackedBatch], bool],
        gang: Gang,
        adapters: Adapters | None = None,
    ) -> None:
        super().__init__(
            model, device, temperature, bfloat16=bfloat16, recompute=recompute, adapters=adapters
        )
        self._gang = gang
        self._root = shard(self._module, gang, device)

    def logprobs_alone(self, batch: PackedBatch) -> torch.Tensor:
        try:
            return super().logprobs_alone(batch)
        finally:
            self._root.reshard()  # which a backward pass would have done

    @torch.no_grad()
    def logprobs_under(self, weights: Weights, batches: Sequence[PackedBatch]) -> list[torch.Tensor]:
        # functional_call would bypass FSDP's shards, so the other weights take their place for a while.
        own = self.copy_weights()
        self._put(weights)
        try:
            return [self.logprobs(batch.to(self.device)) for batch in batches]
        finally:
            self._put(own)

    def publish(
        self,
        manifest: WeightManifest,
        spare: Buckets | None = None,
        note: Callable[[torch.Tensor], object] | None = None,
    ) -> tuple[Weights, Buckets]:
        weights = self._as_published(manifest, {})
        if self._gang.rank == 0:
            return weights, pack(self.layout, self._sources, manifest, spare, note)
        take_part(self.layout, self._sources)
        return weights, ()

    def _put(self, weights: Weights) -> None:
        self._root.reshard()  # what a forward pass has left in whole is of the weights before
        for name, parameter in self.parameters.items():
            own_part(parameter).copy_(weights[name])
