"""How a model's weights are called and cut on disk, which is how engines load them.

transformers holds some weights otherwise than checkpoints do: experts fused into one parameter, modules
renamed, prefixes left away. It knows the way back, since `save_pretrained` takes it; so does this module,
a parameter at a time, so that a sharded model need never be whole at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from transformers.core_model_loading import revert_weight_conversion


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor on disk. A buffer is not trained, and keeps its dtype wherever it goes."""

    name: str
    shape: tuple[int, ...]
    is_buffer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGroup:
    """Parameters of the model, mostly one, and the tensors that they are on disk."""

    sources: tuple[str, ...]
    """Names in the model, in the order of `named_parameters`."""
    tensors: tuple[StoredTensor, ...]
    is_plain: bool
    """One parameter stored as it is, under whatever name."""

    @property
    def is_buffers(self) -> bool:
        return self.tensors[0].is_buffer


class StoredLayout:
    """All that a checkpoint of `model` has: its parameters, tied ones once, and its persistent floating buffers.

    Sharded or not, the layout is the same. Raises ValueError where transformers cannot store the model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        buffers = stored_buffers(model)
        sources = {**dict(model.named_parameters()), **buffers}
        self._shapes = {name: tuple(source.shape) for name, source in sources.items()}
        shapes = {name: torch.empty(shape, device="meta") for name, shape in self._shapes.items()}
        groups = []
        for names in self._sources(shapes):
            tensors = self._convert({name: shapes[name] for name in names})
            groups.append(
                StoredGroup(
                    sources=names,
                    tensors=tuple(
                        StoredTensor(name=name, shape=tuple(one.shape), is_buffer=names[0] in buffers)
                        for name, one in tensors.items()
                    ),
                    is_plain=all(one is shapes[names[0]] for one in tensors.values()),
                )
            )
        self.groups = tuple(groups)
        stored = [tensor.name for group in self.groups for tensor in group.tensors]
        by_parts = {tensor.name: tensor.shape for group in self.groups for tensor in group.tensors}
        in_whole = {name: tuple(one.shape) for name, one in self._convert(shapes).items()}
        if len(stored) != len(by_parts) or by_parts != in_whole:
            raise ValueError(
                f"{type(model).__name__} is stored otherwise by parts than in whole: its weights cannot be published"
            )

    def __iter__(self) -> Iterator[StoredTensor]:
        return (tensor for group in self.groups for tensor in group.tensors)

    @torch.no_grad()
    def store(self, group: StoredGroup, sources: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The group's tensors as on disk, in whole, of its parameters in whole. Views where nothing is moved."""
        if group.is_plain:
            return {group.tensors[0].name: sources[group.sources[0]]}
        return self._convert({name: sources[name] for name in group.sources})

    @torch.no_grad()
    def load(self, group: StoredGroup, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inverse of `store`: the group's parameters in whole, of its tensors on disk.

        Where more than names differ, it follows the places of all elements, at 8 bytes an element of the group.
        """
        if group.is_plain:
            return {group.sources[0]: tensors[group.tensors[0].name]}
        numels = [math.prod(self._shapes[name]) for name in group.sources]
        places = {
            name: part.view(self._shapes[name])
            for name, part in zip(group.sources, torch.arange(sum(numels)).split(numels), strict=True)
        }
        flat = torch.empty(sum(numels), dtype=tensors[group.tensors[0].name].dtype)
        for name, places_of_tensor in self._convert(places).items():
            flat[places_of_tensor.flatten()] = tensors[name].flatten()
        return {
            name: part.view(self._shapes[name])
            for name, part in zip(group.sources, flat.split(numels), strict=True)
        }

    def _convert(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not hasattr(self._model, "_weight_conversions") and not hasattr(self._model, "config"):
            return dict(tensors)  # no model of transformers
        return dict(revert_weight_conversion(self._model, dict(tensors)))  # type: ignore[arg-type]

    def _sources(self, tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, ...]]:
        """Names that are stored together: those that would be stored under one name."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, tensor in tensors.items():
            groups.setdefault(tuple(self._convert({name: tensor})), []).append(name)
        return [tuple(names) for names in groups.values()]


def stored_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Floating buffers that belong to a checkpoint, such as a router's bias that training leaves alone."""
    stored = model.state_dict().keys()
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name in stored and buffer.is_floating_point()
    }
