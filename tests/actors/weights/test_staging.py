"""What a watched load teaches of later updates, on a small model with every kind of loader."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch

from actors.weights.manifest import TensorEntry, WeightManifest, flat_tensors, views
from actors.weights.staging import LoadingWatch, StagingPlan

ROWS, WIDTH = 8, 16
SIZES = {
    "q": ROWS,
    "k": ROWS,
    "v": ROWS,
    "gate_up": 2 * ROWS,
    "up": ROWS,
    "gate": ROWS,
    "vocabulary": 6,
    "scaled": ROWS,
}


class Weights:
    """As vLLM has them: joined, padded, computed, tied."""

    def __init__(self) -> None:
        def weight(rows: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.full((rows, WIDTH), 7.0), requires_grad=False)

        self.qkv, self.split, self.joined = weight(3 * ROWS), weight(2 * ROWS), weight(2 * ROWS)
        self.padded, self.computed, self.cast = weight(ROWS), weight(ROWS), weight(ROWS)
        self.other = torch.zeros(ROWS, WIDTH)

    @property
    def candidates(self) -> list[torch.Tensor]:
        return [self.qkv, self.split, self.joined, self.padded, self.computed, self.cast]

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            if name in "qkv":
                self.qkv.data.narrow(0, ROWS * "qkv".index(name), ROWS).copy_(tensor)
            elif name == "gate_up":  # split on its way, the halves exchanged
                self.split.data[ROWS:].copy_(tensor.narrow(0, 0, ROWS))
                self.split.data[:ROWS].copy_(tensor.narrow(0, ROWS, ROWS))
            elif name in ("gate", "up"):
                self.joined.data.narrow(0, ROWS * (name == "up"), ROWS).copy_(tensor)
                if name == "up":  # also needed elsewhere
                    self.other.copy_(2 * tensor)
            elif name == "vocabulary":
                self.padded.data[:6].copy_(tensor)
                self.padded.data[6:].fill_(0)
            elif name == "scaled":
                self.computed.data.copy_(tensor)
                self.computed.data.mul_(-1)
                self.cast.data.copy_(tensor.bfloat16())


def published(seed: int) -> tuple[WeightManifest, list[np.ndarray]]:
    entries, offset = [], 0
    for name, rows in SIZES.items():
        entries.append(
            TensorEntry(name=name, dtype="float32", shape=(rows, WIDTH), bucket=0, offset_bytes=offset)
        )
        offset += rows * WIDTH * 4
    bucket = np.random.default_rng(seed).standard_normal(offset // 4).astype(np.float32).view(np.uint8)
    bucket.flags.writeable = False
    return WeightManifest(entries=tuple(entries), bucket_sizes=(offset,)), [bucket]


@torch.no_grad()
def watched(weights: Weights) -> StagingPlan:
    manifest, buckets = published(seed=0)
    with LoadingWatch(weights.candidates, manifest, buckets) as watch:
        weights.load_weights(views(manifest, buckets))
    return watch.plan()


@pytest.fixture
def weights() -> Weights:
    return Weights()


def test_what_is_copied_as_it_is_needs_no_loader_and_the_rest_does(weights):
    plan = watched(weights)
    assert {id(one.parameter) for one in plan.weights} == {
        id(one) for one in (weights.qkv, weights.split, weights.padded)
    }
    assert plan.left == {"gate", "up", "scaled"}  # of what is joined a part is needed elsewhere too


def test_what_is_put_together_and_the_rest_loaded_is_the_update_loaded_whole(weights):
    plan, expected = watched(weights), Weights()
    manifest, buckets = published(seed=1)
    expected.load_weights(views(manifest, buckets))
    before = [one.parameter.detach().clone() for one in plan.weights]
    staged = [one.of(flat_tensors(manifest, buckets)) for one in plan.weights]
    for one, old in zip(plan.weights, before, strict=True):
        assert torch.equal(one.parameter, old)  # it is served meanwhile
    weights.load_weights((name, tensor) for name, tensor in views(manifest, buckets) if name in plan.left)
    for one, tensor in zip(plan.weights, staged, strict=True):
        one.parameter.data = tensor
    for ours, theirs in zip(weights.candidates, expected.candidates, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(weights.other, expected.other)


def test_a_weight_that_lies_in_a_bucket_in_one_piece_is_that_memory(weights):
    plan = watched(weights)
    manifest, buckets = published(seed=1)
    flats = flat_tensors(manifest, buckets)
    places = {id(one.parameter): one.of(flats).data_ptr() - flats[0].data_ptr() for one in plan.weights}
    assert places[id(weights.qkv)] == 0
    assert all(
        places[id(one)] not in range(manifest.bucket_sizes[0]) for one in (weights.split, weights.padded)
    )
