"""A gang of ranks is one learner: the same steps, facts, refusals and checkpoints as one process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.weights.fingerprint import param_fingerprint
from actors.weights.manifest import views
from learner.gang import ALONE
from learner.learner import Learner
from learner.model.causal_lm import load_model
from learner.model.logprobs import token_logprobs
from learner.objectives.config import ObjectiveConfig
from learner.step.batch import divide, empty_batch
from tests.shared.architectures import by_name, save
from tests.shared.learners import write_base_scores
from tests.shared.ranks import Ranks, make_learner
from tests.shared.tiny_model import (
    build_model,
    demonstrate,
    make_group,
    model_path,
    reference_model,
    shift_behaviour,
)

BON = ObjectiveConfig(name="bon", num_select=2)
RANKS = ObjectiveConfig(name="bon", num_select=2, score_transform="rank_vs_base")
SETTINGS = {"micro_batch_tokens": 48, "eps": 1e-3, "learning_rate": 1e-2, "warmup_steps": 2}
"""Several micro-batches a step; AdamW's eps above rounding, which a division by an average near 0 would amplify."""


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def three() -> Iterator[Ranks]:
    """The tiny model's 32 channels and 23 words cannot be divided by three."""
    ranks = Ranks(3)
    yield ranks
    ranks.close()


def weights_of(learner: Learner, buckets=None) -> dict[str, torch.Tensor]:
    return dict(views(learner.manifest, learner.published.buckets if buckets is None else buckets))


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name] - value).norm() <= 1e-5 * value.norm(), name


def without_seconds(facts: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in facts.items() if not name.endswith("_s")}


def assert_same_files(ours: Path, theirs: Path) -> None:
    names = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


# --- how the work is divided ---


@pytest.mark.parametrize("num_shares", [1, 2, 3, 7])
def test_every_sequence_is_in_one_share(num_shares):
    lengths = np.random.default_rng(num_shares).integers(1, 50, 40)
    shares = divide(lengths, num_shares)
    assert len(shares) == num_shares
    assert sorted(np.concatenate(shares).tolist()) == list(range(40))
    assert all(np.all(np.diff(share) > 0) for share in shares)


def test_no_share_is_larger_than_four_thirds_of_the_smallest_maximum():
    for seed in range(30):
        lengths = np.random.default_rng(seed).integers(1, 30, 7)
        best = min(
            max(sum(lengths[np.array(owners) == share]) for share in range(3))
            for owners in itertools.product(range(3), repeat=7)
        )
        assert max(lengths[share].sum() for share in divide(lengths, 3)) <= 4 / 3 * best


def test_shares_follow_longest_first_and_more_shares_than_sequences_leave_some_empty():
    assert [share.tolist() for share in divide(np.array([3, 9, 5, 4]), 2)] == [[0, 1], [2, 3]]
    assert [share.tolist() for share in divide(np.array([3, 9]), 3)] == [[1], [0], []]


def test_a_pass_over_an_empty_batch_adds_exactly_nothing():
    policy = load_model(model_path())
    logprobs_T = token_logprobs(policy, empty_batch(), 1.0)
    assert logprobs_T.shape == (0,)
    logprobs_T.sum().backward()
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in policy.parameters())


def test_one_process_alone_exchanges_nothing(monkeypatch):
    monkeypatch.delattr(torch.distributed, "all_gather")
    values = np.array([1.5, np.nan])
    assert ALONE.sum(values) is values and ALONE.largest(values) is values and ALONE.norm(3.0) == 3.0
    assert ALONE.gather(values).shape == (1, 2)


def test_ranks_know_how_many_share_their_machine(two):
    assert two.num_here() == [2, 2] and ALONE.num_here() == 1


# --- a step ---


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (ObjectiveConfig(name="rloo"), {}),
        (BON, {"kl_coefficient": 0.2}),
        (ObjectiveConfig(name="bon_sft", num_select=4), {"weight_decay": 0.1, "max_grad_norm": 0.5}),
        (BON, {"recompute": "always"}),
    ],
    ids=["rloo", "bon_kl", "bon_sft", "recompute"],
)
def test_two_ranks_take_the_steps_of_one(two, objective, settings):
    """Weights within 1e-5 of each tensor's norm; facts within 1e-4 relative or 1e-6 absolute."""
    settings = SETTINGS | {"parity_share": 0.5} | settings
    alone = make_learner(settings, objective)
    two.make(settings, objective)
    for step in range(3):
        # The oldest groups are compared under weights of an earlier version.
        groups = [
            demonstrate(
                shift_behaviour(make_group(10 * step + g, worker=f"rollout-{g % 2}", temperature=0.7), -0.2)
            )
            for g in range(3)
        ]
        expected = alone.train_step(groups)
        first, second = two.train_step(groups)
        facts, theirs = without_seconds(first.facts), without_seconds(expected.facts)
        # A prompt whose samples are divided over ranks is computed on each of them.
        assert 1 <= facts.pop("prompt_sharing") <= theirs.pop("prompt_sharing")
        assert facts.pop("positions") >= theirs.pop("positions")
        assert facts == pytest.approx(theirs, rel=1e-4, abs=1e-6)
        assert facts["parity_tokens"] > 0
        for name, parity in expected.parity_by_worker.items():
            ours = first.parity_by_worker[name]
            assert ours.num_tokens == parity.num_tokens
            assert (ours.mean, ours.kl, ours.largest) == pytest.approx(
                (parity.mean, parity.kl, parity.largest), rel=1e-4
            )
        assert first.parity_by_worker.keys() == expected.parity_by_worker.keys()
        assert np.array_equal(first.weights_BN, expected.weights_BN)
        assert first.facts == second.facts and first.parity_by_worker == second.parity_by_worker
        assert first.version == second.version == step + 1 and first.fingerprint == second.fingerprint
    ours, others = two.published()
    assert others.buckets == ()
    assert_close(weights_of(alone, ours.buckets), weights_of(alone))
    assert ours.fingerprint == param_fingerprint(weights_of(alone, ours.buckets))


def test_two_ranks_take_the_steps_of_one_also_on_ranks_among_base_scores(two, tmp_path):
    objective, base_scores = RANKS, tmp_path / "base_scores.parquet"
    write_base_scores(base_scores, {f"problem-{number}": [0.1 * number, 0.5, 0.9] for number in range(4)})
    alone = make_learner(SETTINGS, objective, base_scores=base_scores)
    two.make(SETTINGS, objective, base_scores=base_scores)
    groups = [make_group(number, temperature=0.7) for number in range(4)]
    alone.begin_step(groups[2:], 4)
    two.begin_step(groups[2:], 4)
    expected, result = alone.train_step(groups[:2]), two.train_step(groups[:2])[0]
    assert np.array_equal(result.weights_BN, expected.weights_BN)
    for name in ("win_rate", "bon_win_rate", "loss", "grad_norm"):
        assert result.facts[name] == pytest.approx(expected.facts[name], rel=1e-4, abs=1e-6)
    assert_close(weights_of(alone, two.published()[0].buckets), weights_of(alone))


@pytest.mark.parametrize(("tied", "dtype", "tolerance"), [(True, "float32", 1e-5), (False, "bfloat16", 5e-3)])
def test_tied_weights_and_bfloat16_are_trained_by_two_ranks_as_by_one(two, tied, dtype, tolerance, tmp_path):
    build_model(tie_word_embeddings=tied).save_pretrained(tmp_path)
    settings = SETTINGS | {"dtype": dtype, "kl_coefficient": 0.2}
    alone = make_learner(settings, BON, str(tmp_path))
    before = {name: value.clone() for name, value in weights_of(alone).items()}
    two.make(settings, BON, str(tmp_path))
    for step in range(2):
        groups = [make_group(10 * step + g, temperature=0.7) for g in range(3)]
        expected, result = alone.train_step(groups), two.train_step(groups)[0]
        for fact in ("grad_norm", "parity_max"):  # the latter is 2e4 times larger in bfloat16
            assert result.facts[fact] == pytest.approx(expected.facts[fact], rel=0.1), fact
    ours = weights_of(alone, two.published()[0].buckets)
    for name, value in weights_of(alone).items():
        assert (ours[name] - value).norm() <= tolerance * value.norm(), name
        assert (ours[name] - value).norm() <= 0.5 * (value - before[name]).norm(), name


def test_samples_of_an_older_version_are_compared_under_its_weights_and_leave_the_policy_alone(two):
    settings = SETTINGS | {"learning_rate": 0.05, "warmup_steps": 0, "parity_share": 1e6}
    two.make(settings, BON)
    one = make_learner(settings, BON)
    learners = [make_group(number, temperature=0.7) for number in range(2)]
    for result in (one.train_step(learners), two.train_step(learners)[0]):
        assert result.facts["parity_max"] < 1e-4
    honest = make_group(5, version=0, worker="honest", temperature=0.7)
    new = reference_model(weights_of(one))
    mislabelled = make_group(6, version=0, worker="mislabelled", temperature=0.7, model=new)
    expected, result = one.train_step([honest, mislabelled]), two.train_step([honest, mislabelled])[0]
    assert result.parity_by_worker["honest"].largest < 1e-4
    assert result.parity_by_worker["mislabelled"].mean > 0.1
    assert result.facts["parity_tokens"] == expected.facts["parity_tokens"]
    assert_close(weights_of(one, two.published()[0].buckets), weights_of(one))


def test_what_is_published_in_bfloat16_is_the_rounded_weights(two):
    two.make({}, BON)
    exact = two.published()[0]
    two.make({"publish_dtype": "bfloat16"}, BON)
    one = make_learner({"publish_dtype": "bfloat16"}, BON)
    assert two.published()[0].fingerprint == one.published.fingerprint != exact.fingerprint


def test_two_ranks_give_the_same_bits_twice(two):
    fingerprints = []
    for _ in range(2):
        two.make(SETTINGS, BON)
        fingerprints.append([two.train_step([make_group(g) for g in range(3)])[0].fingerprint for _ in "ab"])
    assert fingerprints[0] == fingerprints[1]


def test_a_step_begun_in_parts_is_the_same_on_two_ranks(two):
    settings = SETTINGS | {"kl_coefficient": 0.2}
    alone = make_learner(settings, BON)
    two.make(settings, BON)
    for step in range(2):
        groups = [make_group(10 * step + g, worker=f"rollout-{g % 3}", temperature=0.7) for g in range(5)]
        expected = alone.train_step(groups)
        assert two.begin_step([groups[3], groups[1]], 5) == [None, None]
        assert two.begin_step([groups[4]], 5) == [None, None]
        first, second = two.train_step([groups[0], groups[2]])
        assert first.facts == second.facts and first.fingerprint == second.fingerprint
        assert first.groups_B.tolist() == expected.groups_B.tolist()
        assert np.array_equal(first.weights_BN, expected.weights_BN)
        for fact in ("loss", "grad_norm", "kl_reference", "parity_tokens", "trained_tokens"):
            assert first.facts[fact] == pytest.approx(expected.facts[fact], rel=1e-4, abs=1e-6), fact
    assert_close(weights_of(alone, two.published()[0].buckets), weights_of(alone))


@pytest.mark.slow
def test_fewer_sequences_than_ranks_and_none_at_all_are_steps_like_any_other(three):
    few = [make_group(0, samples=2, rewards=np.array([1.0, 0.0]))]
    none = [make_group(1, samples=2, rewards=np.zeros(2))]
    alone = make_learner(SETTINGS, BON)
    three.make(SETTINGS, BON)
    for groups in (few, none):
        expected, results = alone.train_step(groups), three.train_step(groups)
        assert results[0].facts["grad_norm"] == pytest.approx(expected.facts["grad_norm"], rel=1e-4)
        assert [result.facts["trained_tokens"] for result in results] == [
            expected.facts["trained_tokens"]
        ] * 3
    assert_close(weights_of(alone, three.published()[0].buckets), weights_of(alone))


@pytest.mark.parametrize(("reward", "what"), [(1e300, "loss"), (1e30, "gradient norm")])
def test_a_step_that_is_not_finite_is_refused_by_all_ranks_and_changes_nothing(two, reward, what):
    two.make(SETTINGS, BON)
    before = two.published()
    refused = two.train_step([make_group(0), make_group(1, samples=4, rewards=np.array([reward, 0, 0, 0]))])
    assert all(isinstance(error, ArithmeticError) for error in refused)
    assert str(refused[0]) == str(refused[1]) and f"{what} is " in str(refused[0])
    two.train_step([make_group(0)])
    after = two.published()[0].fingerprint
    two.make(SETTINGS, BON)
    assert [published.fingerprint for published in two.published()] == [p.fingerprint for p in before]
    assert two.train_step([make_group(0)])[0].fingerprint == after


def test_mistaken_groups_are_refused_by_all_ranks_with_the_same_words(two):
    two.make(SETTINGS, BON)
    refused = two.train_step([make_group(0), make_group(1, samples=3)])
    assert [str(error) for error in refused] == ["a batch needs groups of one size, got sizes [3, 4]"] * 2


# --- checkpoints ---


@pytest.fixture(scope="module")
def saved(two, tmp_path_factory) -> tuple[Path, int]:
    """A checkpoint of two ranks after two steps, and its fingerprint."""
    directory = tmp_path_factory.mktemp("two")
    two.make(SETTINGS, BON)
    for step in range(2):
        results = two.train_step([make_group(10 * step + g) for g in range(3)])
    two.save(directory)
    return directory, results[0].fingerprint


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_is_one_of_any_number_bit_for_bit(saved, two, three, tmp_path):
    directory, fingerprint = saved
    next_groups = [make_group(30 + g) for g in range(3)]
    one = make_learner(SETTINGS, BON)
    one.load(directory)
    one.save(tmp_path / "one")
    three.make(SETTINGS, BON)
    assert three.load(directory) == [None] * 3
    three.save(tmp_path / "three")
    assert one.published.fingerprint == three.published()[0].fingerprint == fingerprint
    assert_same_files(tmp_path / "one", directory)
    assert_same_files(tmp_path / "three", directory)

    two.make(SETTINGS, BON)
    two.load(directory)
    straight = two.train_step(next_groups)[0]
    for result in (one.train_step(next_groups), three.train_step(next_groups)[0]):
        assert result.version == straight.version == 3
        assert result.facts["loss"] == pytest.approx(straight.facts["loss"], rel=1e-5)
        assert result.facts["grad_norm"] == pytest.approx(straight.facts["grad_norm"], rel=1e-5)
    assert_close(weights_of(one), weights_of(one, two.published()[0].buckets))
    assert_close(weights_of(one), weights_of(one, three.published()[0].buckets))


def test_tied_weights_are_one_tensor_in_a_checkpoint_of_any_number_of_ranks(two, tmp_path):
    model = tmp_path / "tied"
    build_model(tie_word_embeddings=True).save_pretrained(model)
    one = make_learner(SETTINGS, BON, str(model))
    one.train_step([make_group(0)])
    one.save(tmp_path / "one")
    two.make(SETTINGS, BON, str(model))
    two.load(tmp_path / "one")
    two.save(tmp_path / "two")
    assert_same_files(tmp_path / "two", tmp_path / "one")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "two" / "model")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert param_fingerprint(loaded.named_parameters()) == one.published.fingerprint


def test_a_damaged_checkpoint_is_refused_by_all_ranks_and_changes_nothing(saved, two, tmp_path):
    for name in ("learner.json", "optimizer.safetensors"):
        (tmp_path / name).write_bytes((saved[0] / name).read_bytes())
    (tmp_path / "model").mkdir()
    weights = (saved[0] / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").write_bytes(weights[:-50])
    two.make(SETTINGS, BON)
    before = two.published()[0].fingerprint
    for error in two.load(tmp_path):
        assert isinstance(error, ValueError) and "is damaged" in str(error)
    assert two.train_step([make_group(0)])[0].version == 1
    two.make(SETTINGS, BON)
    assert two.published()[0].fingerprint == before


def test_the_number_of_ranks_is_no_setting_of_a_checkpoint(saved):
    assert not [
        name for name in json.loads((saved[0] / "learner.json").read_text())["settings"] if "ranks" in name
    ]


def test_a_gang_listens_on_its_own_address_only(two):
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")  # an IPv4 address on a socket of both kinds
        for process in [psutil.Process(), *(psutil.Process(p.pid) for p in two.processes)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize("name", ["Mixtral", "DeepSeek-V3", "Gemma 2", "gpt-oss", "Falcon-H1"])
def test_two_ranks_train_publish_and_store_what_is_fused_renamed_or_a_buffer_as_one_does(two, name, tmp_path):
    save(by_name(name), tmp_path / "base")
    alone = make_learner(SETTINGS, BON, str(tmp_path / "base"))
    two.make(SETTINGS, BON, str(tmp_path / "base"))
    assert two.published()[0].fingerprint == alone.published.fingerprint
    groups = [make_group(g, temperature=0.7) for g in range(3)]
    expected, result = alone.train_step(groups), two.train_step(groups)[0]
    assert result.facts["parity_max"] == pytest.approx(expected.facts["parity_max"], rel=1e-4)
    ours = weights_of(alone, two.published()[0].buckets)
    for stored, value in weights_of(alone).items():
        assert (ours[stored] - value).norm() <= 1e-4 * value.norm(), stored
    two.save(tmp_path / "saved")
    alone.load(tmp_path / "saved")
    assert alone.published.fingerprint == result.fingerprint != expected.fingerprint


@pytest.mark.parametrize("publish", ["merged", "adapter"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_ranks_train_publish_and_store_adapters_as_one_does(two, dtype, publish, tmp_path):
    """With frozen weights in `dtype`, and adapters in float32."""
    lora = {"rank": 3, "alpha": 6, "publish": publish}
    settings = {"lora": lora, "kl_coefficient": 0.2, "parity_share": 0.5}
    settings |= SETTINGS | {"dtype": dtype, "weights_dtype": dtype, "publish_dtype": dtype}
    alone = make_learner(settings, BON)
    two.make(settings, BON)
    assert two.published()[0].fingerprint == alone.published.fingerprint
    tolerance = 1e-4 if dtype == "float32" else 0.1
    for step in range(3):
        groups = [make_group(10 * step + g, worker=f"rollout-{g % 2}", temperature=0.7) for g in range(3)]
        expected, (first, second) = alone.train_step(groups), two.train_step(groups)
        assert first.facts == second.facts and first.fingerprint == second.fingerprint
        for fact in ("loss", "grad_norm", "kl_reference"):
            assert first.facts[fact] == pytest.approx(expected.facts[fact], rel=tolerance, abs=1e-6), fact
        # In bfloat16 it is the rounding itself, which the shape of a batch decides where a CPU has no instructions for it.
        rounding = tolerance if dtype == "float32" else 0.5
        assert first.facts["parity_mean"] == pytest.approx(
            expected.facts["parity_mean"], rel=rounding, abs=1e-6
        )
    ours = weights_of(alone, two.published()[0].buckets)
    share = 0.1 if publish == "merged" else 0.5  # of an adapter alone all is what the steps have made
    for name, value in weights_of(alone).items():
        assert (ours[name] - value).norm() <= share * tolerance * value.norm(), name
    two.save(tmp_path / "two")
    published = two.published()[0].fingerprint
    alone.load(tmp_path / "two")
    assert alone.published.fingerprint == published
    alone.save(tmp_path / "one")
    assert_same_files(tmp_path / "one", tmp_path / "two")
    two.make(settings, BON)
    two.load(tmp_path / "one")
    assert two.published()[0].fingerprint == published
