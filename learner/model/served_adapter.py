"""Adapters that engines are given apart from the weights they adapt (`learner.lora.publish = "adapter"`).

An engine computes y = x W^T + (x A^T) B^T with W, A and B in its own dtype, B multiplied by alpha / rank before it is
rounded. So does the learner here: with the rounded A and B, whose rounding counts as the identity in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional

from actors.weights.adapter import DOWN, UP
from learner.model.names import StoredGroup, StoredTensor


class AddedLinear(Linear):
    """peft's layer, computed as engines do that have the adapter apart."""

    served: torch.dtype
    """Of the engines' weights."""

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        base: Any = self.base_layer
        (name,) = self.active_adapters
        trained: Any = (self.lora_A[name].weight, self.lora_B[name].weight * self.scaling[name])
        down, up = (as_served(weight, self.served) for weight in trained)
        return base(x) + functional.linear(functional.linear(x.to(down.dtype), down), up)


def as_served(weight: torch.Tensor, served: torch.dtype) -> torch.Tensor:
    """Rounded to what engines get, in its own dtype; the gradient is that of the identity."""
    return weight + (weight.detach().to(served).to(weight.dtype) - weight.detach())


class AdapterLayout:
    """The tensors of all adapters, as `StoredLayout` describes those of a model: A and B of a layer after the other."""

    def __init__(self, trained: Mapping[str, torch.Tensor], name: str) -> None:
        """`trained`: parameters by the model's names; `name`: peft's of the adapter."""
        groups = []
        for source, value in trained.items():
            stored = StoredTensor(name=_as_published(source, name), shape=tuple(value.shape), is_buffer=False)
            groups.append(StoredGroup(sources=(source,), tensors=(stored,), is_plain=True))
        self.groups = tuple(groups)

    def __iter__(self) -> Iterator[StoredTensor]:
        return (group.tensors[0] for group in self.groups)

    def store(self, group: StoredGroup, sources: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {group.tensors[0].name: sources[group.sources[0]]}


class ScaledAdapters(Mapping[str, torch.Tensor]):
    """The trained parameters by their names, each B multiplied by alpha / rank when it is asked for."""

    def __init__(self, trained: Mapping[str, torch.Tensor], scaling: float) -> None:
        self._trained, self._scaling = trained, scaling

    def __getitem__(self, name: str) -> torch.Tensor:
        value = self._trained[name]
        return value.detach() * self._scaling if ".lora_B." in name else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._trained)

    def __len__(self) -> int:
        return len(self._trained)


def _as_published(source: str, name: str) -> str:
    for part, ending in ((f".lora_A.{name}.weight", DOWN), (f".lora_B.{name}.weight", UP)):
        if source.endswith(part):
            return source.removesuffix(part) + ending
    raise ValueError(f"{source} is no parameter of an adapter")
