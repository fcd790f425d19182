"""Which weights of an engine can be made ready from an update's buckets while it samples, and making them ready.

Only a model's own loader knows how tensors of a checkpoint lie in its weights: vLLM joins q, k and v, and gate and up. So one
update is loaded by it and watched (`LoadingWatch`). A weight whose bytes are copied as they are out of the buckets
needs no loader from then on: `StagedWeight.of` puts it together, and where it lies in a bucket in one piece nothing is
copied at all, the bucket's own memory becomes the weight.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from actors.weights.manifest import TensorEntry, WeightManifest, flat_tensors

_LEAVES_ROWS_ALONE = {"aten::fill_", "aten::zero_"}
"""What loaders do to rows that no tensor of a checkpoint has, such as those that pad the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Bytes of a weight, and where in the buckets they come from."""

    start: int
    """Of the weight's bytes, in row-major order."""
    size_bytes: int
    bucket: int
    offset_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class StagedWeight:
    """A weight of the model, and the spans that it is made of in every update; other bytes of it never change."""

    parameter: torch.Tensor
    spans: tuple[Span, ...]

    def of(self, flats: Sequence[torch.Tensor]) -> torch.Tensor:
        """The weight that the buckets hold, in their memory or in new one; what the engine reads is left alone."""
        parameter = self.parameter.detach()
        if [span.size_bytes for span in self.spans] == [parameter.nbytes]:
            return _bytes_of(flats, self.spans[0]).view(parameter.dtype).view(parameter.shape)
        is_whole = sum(span.size_bytes for span in self.spans) == parameter.nbytes
        weight = torch.empty_like(parameter) if is_whole else parameter.clone()
        own_bytes = weight.view(-1).view(torch.uint8)
        for span in self.spans:
            own_bytes[span.start : span.start + span.size_bytes].copy_(_bytes_of(flats, span))
        return weight


@dataclass(frozen=True, slots=True)
class StagingPlan:
    """For every update that is laid out as `manifest` says."""

    manifest: WeightManifest
    weights: tuple[StagedWeight, ...]
    left: frozenset[str]
    """Names of the tensors that the model's loader has to load."""


class LoadingWatch(TorchDispatchMode):
    """Sees each operation by which a model loads an update; afterwards `plan` says what can do without.

    `weights`: the candidates, contiguous, none of which shares its memory with another tensor.
    """

    def __init__(
        self, weights: Sequence[torch.Tensor], manifest: WeightManifest, buckets: Sequence[np.ndarray]
    ) -> None:
        super().__init__()
        self._weights = list(weights)
        self._manifest = manifest
        self._flats = flat_tensors(manifest, buckets)
        self._weight_at = {weight.data_ptr(): number for number, weight in enumerate(self._weights)}
        addresses = [flat.data_ptr() for flat in self._flats]
        entries = [(addresses[entry.bucket] + entry.offset_bytes, entry) for entry in manifest.entries]
        self._entries = sorted(entries, key=lambda one: one[0])
        self._spans: list[list[Span]] = [[] for _ in self._weights]
        self._users: dict[str, set[int | None]] = {entry.name: set() for entry in manifest.entries}
        """The candidates into which a tensor is copied; None: it is needed for something else."""
        self._written_otherwise: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [
                one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor) and one.numel()
            ]
            if not (func is torch.ops.aten.copy_.default and len(tensors) == 2 and self._note_copy(*tensors)):
                for tensor in tensors:
                    self._note_use(tensor, only_fills=func._schema.name in _LEAVES_ROWS_ALONE)
        return result

    def plan(self) -> StagingPlan:
        """What has been seen; a weight counts only if what is put together is what has been loaded, to the last bit."""
        planned = {
            number: StagedWeight(weight, _joined(self._spans[number]))
            for number, weight in enumerate(self._weights)
            if self._spans[number] and number not in self._written_otherwise
        }
        planned = {
            number: one for number, one in planned.items() if _same_bits(one.of(self._flats), one.parameter)
        }
        while True:  # the loader is not to write to a weight that is staged, which may be a bucket's memory
            left = {name for name, users in self._users.items() if not (users and users <= planned.keys())}
            kept = {
                number: one
                for number, one in planned.items()
                if not any(number in self._users[name] for name in left)
            }
            if kept == planned:
                return StagingPlan(self._manifest, tuple(planned.values()), frozenset(left))
            planned = kept

    def _note_copy(self, target: torch.Tensor, source: torch.Tensor) -> bool:
        """Whether it copies a tensor of the buckets, or a part of one, as it is into a candidate."""
        number = self._weight_at.get(target.untyped_storage().data_ptr())
        found = self._entry_at(source)
        if number is None or found is None or number in self._written_otherwise:
            return False
        address, entry = found
        is_plain = (
            target.dtype == source.dtype
            and target.shape == source.shape
            and target.is_contiguous()
            and source.is_contiguous()
        )
        if is_plain:
            self._spans[number].append(
                Span(
                    start=int(target.storage_offset()) * target.element_size(),
                    size_bytes=source.nbytes,
                    bucket=entry.bucket,
                    offset_bytes=entry.offset_bytes + source.data_ptr() - address,
                )
            )
            self._users[entry.name].add(number)
        return is_plain

    def _note_use(self, tensor: torch.Tensor, *, only_fills: bool) -> None:
        if (found := self._entry_at(tensor)) is not None:
            self._users[found[1].name].add(None)
        number = self._weight_at.get(tensor.untyped_storage().data_ptr())
        if number is not None and not only_fills:
            self._written_otherwise.add(number)

    def _entry_at(self, tensor: torch.Tensor) -> tuple[int, TensorEntry] | None:
        place = bisect.bisect_right(self._entries, tensor.data_ptr(), key=lambda one: one[0]) - 1
        if place < 0:
            return None
        address, entry = self._entries[place]
        return (address, entry) if tensor.data_ptr() < address + entry.size_bytes else None


def _bytes_of(flats: Sequence[torch.Tensor], span: Span) -> torch.Tensor:
    return flats[span.bucket][span.offset_bytes : span.offset_bytes + span.size_bytes]


def _joined(spans: Sequence[Span]) -> tuple[Span, ...]:
    """In order, and as one where they follow each other both in the weight and in a bucket."""
    joined: list[Span] = []
    for span in sorted(spans, key=lambda one: one.start):
        last = joined[-1] if joined else None
        if last is not None and (
            last.start + last.size_bytes == span.start
            and last.bucket == span.bucket
            and last.offset_bytes + last.size_bytes == span.offset_bytes
        ):
            joined[-1] = Span(
                start=last.start,
                size_bytes=last.size_bytes + span.size_bytes,
                bucket=last.bucket,
                offset_bytes=last.offset_bytes,
            )
        else:
            joined.append(span)
    return tuple(joined)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.detach().view(torch.uint8), other.detach().view(torch.uint8))
