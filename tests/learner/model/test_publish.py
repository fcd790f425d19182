"""Weights as bytes: nothing lost, nothing twice, and a checksum that sees one flipped bit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors import safe_open

from actors.weights.fingerprint import param_fingerprint, sum_by_torch
from actors.weights.manifest import views
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.model.names import StoredLayout
from learner.model.publish import make_manifest, pack
from learner.objectives.config import ObjectiveConfig
from tests.shared.tiny_model import build_model, make_group, model_path


def parameters_of(model):
    return dict(model.named_parameters())


def test_what_is_packed_is_read_back_exactly():
    model = build_model()
    manifest = make_manifest(StoredLayout(model), "float32")
    read = dict(views(manifest, pack(StoredLayout(model), parameters_of(model), manifest)))
    assert read.keys() == parameters_of(model).keys()
    for name, parameter in parameters_of(model).items():
        assert torch.equal(read[name], parameter)


def test_names_are_those_of_the_checkpoint_on_disk():
    manifest = make_manifest(StoredLayout(build_model()), "float32")
    with safe_open(f"{model_path()}/model.safetensors", "pt") as tensors:
        assert {entry.name for entry in manifest.entries} == set(tensors.keys())


def test_tied_weights_are_packed_once_under_the_name_they_are_saved_with(tmp_path):
    model = build_model(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    names = [entry.name for entry in make_manifest(StoredLayout(model), "float32").entries]
    with safe_open(tmp_path / "model.safetensors", "pt") as tensors:
        assert sorted(names) == sorted(tensors.keys())
    assert "lm_head.weight" not in names


def test_tensors_are_aligned_disjoint_and_never_span_two_buckets():
    sizes = [3, 5, 7, 301, 11, 13]
    model = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in pairwise(sizes)))
    bucket_bytes = 5000  # smaller than some tensors
    manifest = make_manifest(StoredLayout(model), "float32", bucket_bytes)
    ends = [0] * len(manifest.bucket_sizes)
    for entry in manifest.entries:
        assert entry.offset_bytes % 64 == 0 and entry.offset_bytes >= ends[entry.bucket]
        ends[entry.bucket] = entry.offset_bytes + entry.size_bytes
        assert ends[entry.bucket] <= manifest.bucket_sizes[entry.bucket]
    for bucket, size in enumerate(manifest.bucket_sizes):
        assert size <= bucket_bytes or sum(entry.bucket == bucket for entry in manifest.entries) == 1
    assert len(manifest.bucket_sizes) > 2
    buckets = pack(StoredLayout(model), parameters_of(model), manifest)
    for name, view in views(manifest, buckets):
        assert torch.equal(view, parameters_of(model)[name])


def test_bfloat16_is_published_rounded():
    model = build_model()
    manifest = make_manifest(StoredLayout(model), "bfloat16")
    for name, view in views(manifest, pack(StoredLayout(model), parameters_of(model), manifest)):
        assert view.dtype == torch.bfloat16 and torch.equal(view, parameters_of(model)[name].bfloat16())
    assert sum(manifest.bucket_sizes) < 0.6 * sum(make_manifest(StoredLayout(model), "float32").bucket_sizes)


def test_read_only_buckets_are_read_without_copy_or_warning(recwarn):
    model = build_model()
    manifest = make_manifest(StoredLayout(model), "float32")
    (bucket,) = pack(StoredLayout(model), parameters_of(model), manifest)
    bucket.flags.writeable = False
    _, view = next(iter(views(manifest, [bucket])))
    assert view.data_ptr() == bucket.ctypes.data + manifest.entries[0].offset_bytes
    assert not recwarn.list


def test_buckets_of_another_model_are_refused():
    manifest = make_manifest(StoredLayout(build_model()), "float32")
    with pytest.raises(ValueError, match="their manifest says"):
        views(manifest, [np.zeros(64, np.uint8)])


def test_published_buckets_are_never_written_again():
    learner = Learner(model_path(), LearnerConfig(), ObjectiveConfig(num_select=2), 1.0, seed=0)
    first = learner.published
    copies = [bucket.copy() for bucket in first.buckets]
    result = learner.train_step([make_group(0)])
    assert learner.published.version == result.version == 1
    assert learner.published.fingerprint == result.fingerprint != first.fingerprint
    assert all(np.array_equal(bucket, copy) for bucket, copy in zip(first.buckets, copies, strict=True))


@pytest.mark.parametrize("num_versions", [1, 3])
def test_buckets_of_a_version_that_parity_has_forgotten_are_written_over(num_versions):
    config = LearnerConfig(parity_versions=num_versions)
    learner = Learner(model_path(), config, ObjectiveConfig(num_select=2), 1.0, seed=0)
    addresses, published = [], []
    for number in range(2 * num_versions + 3):
        addresses.append(learner.published.buckets[0].ctypes.data)
        fresh = param_fingerprint(
            views(learner.manifest, pack(learner._policy.layout, learner._policy._sources, learner.manifest))
        )
        assert learner.published.fingerprint == fresh
        published.append(learner.published.fingerprint)
        learner.train_step([make_group(number)])
    assert len(set(published)) == len(published)
    assert len(set(addresses)) == num_versions + 1


def test_the_fingerprint_is_the_sum_of_raw_bits_modulo_two_to_the_64():
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randn(7, 3, generator=generator),
        "b": torch.randn(5, generator=generator).bfloat16(),
        "c": torch.tensor([2**63 - 1, 2**63 - 1, 5]),
    }
    expected = int(tensors["a"].numpy().view(np.int32).astype(object).sum())
    expected += 2**16 * int(tensors["b"].view(torch.int16).numpy().astype(object).sum())
    expected += 2 * (2**63 - 1) + 5
    assert param_fingerprint(tensors) == (expected + 2**63) % 2**64 - 2**63


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
def test_a_gpu_adds_up_slice_by_slice_what_a_cpu_does_at_once(dtype, monkeypatch):
    monkeypatch.setattr("actors.weights.fingerprint.SLICE", 100)
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    bits = torch.randint(least, most, (7, 33), dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert sum_by_torch(bits) == int(bits.numpy().sum(dtype=np.int64))
    assert sum_by_torch(bits[:0]) == 0


def test_the_fingerprint_survives_fusing_reordering_and_padding_with_zeros():
    model = build_model()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    qkv = [f"model.layers.0.self_attn.{letter}_proj.weight" for letter in "qkv"]
    fused = {"padding": torch.zeros(9), "qkv": torch.cat([parameters[name] for name in qkv])}
    fused |= {name: tensor for name, tensor in reversed(parameters.items()) if name not in qkv}
    assert (
        param_fingerprint(fused)
        == param_fingerprint(parameters)
        == param_fingerprint(model.named_parameters())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fingerprint_sees_one_flipped_bit(dtype):
    tensor = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = param_fingerprint({"x": tensor})
    bits = tensor.view(torch.int32 if dtype == torch.float32 else torch.int16)
    for bit in range(8 * tensor.element_size() - 1):
        bits[17] ^= 1 << bit
        assert param_fingerprint({"x": tensor}) != before
        bits[17] ^= 1 << bit
    assert param_fingerprint({"x": tensor}) == before


def test_the_fingerprint_of_a_bfloat16_is_that_of_the_same_value_in_float32():
    tensor = torch.randn(100, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert param_fingerprint({"x": tensor}) == param_fingerprint({"x": tensor.float()})


def test_the_fingerprint_counts_tied_tensors_once():
    tensor = torch.randn(4, 4)
    assert param_fingerprint({"embedding": tensor, "head": tensor}) == param_fingerprint(
        {"embedding": tensor}
    )
    assert param_fingerprint({"embedding": tensor, "copy": tensor.clone()}) != param_fingerprint(
        {"e": tensor}
    )
