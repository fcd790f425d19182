"""What a forward pass keeps for its backward pass, counted where autograd keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


class SavedBytes:
    """Bytes of the tensors kept within a `counting` block, each once however often it is kept."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}

    @property
    def total(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())

    def add(self, tensor: torch.Tensor) -> None:
        # Held, or the address would be given to another one.
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage


@contextmanager
def counting(parameters: Sequence[torch.Tensor]) -> Iterator[SavedBytes]:
    """Count what is kept beside the parameters, which are there anyway."""
    there = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    saved = SavedBytes()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in there:
            saved.add(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved
