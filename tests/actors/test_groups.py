"""A group survives its Arrow form bit for bit, and one that is not whole is refused."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pytest

from actors.arrow_forms import (
    JUDGEMENT_SCHEMA,
    SAMPLE_SCHEMA,
    SCORED_SCHEMA,
    judgements_to_batch,
    samples_from_batch,
    samples_to_batch,
    scored_from_batch,
    scored_from_judgements,
    scored_to_batch,
)
from actors.types import (
    FINISH_REASONS,
    Demonstration,
    GroupFacts,
    Judgement,
    Piece,
    SampleGroup,
    ScoredGroup,
    joined,
)
from verifiers.types import STATUSES


def random_samples(rng, number):
    """Any legal group: 1 to 9 samples, ragged, prompts that may be empty, texts in any script."""
    n = int(rng.integers(1, 10))
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 30, n))]).astype(np.int32)
    num_tokens = offsets[-1]
    return SampleGroup(
        group=number,
        problem_id=f"problem {number} äß→",
        workers=tuple(f"rollout-{number}" for number in np.sort(rng.integers(4, size=n))),
        seed=int(rng.integers(2**62)),
        prompt_token_ids=rng.integers(0, 2**31, rng.integers(0, 20)).astype(np.int32),
        offsets=offsets,
        token_ids=rng.integers(0, 2**31, num_tokens).astype(np.int32),
        logprobs=-rng.exponential(3.0, num_tokens).astype(np.float32),
        versions=rng.integers(0, 1000, num_tokens).astype(np.int32),
        texts=tuple(str(rng.choice(["", "3 + 4 = 7", "数\n", "\x00"])) for _ in range(n)),
        finish_reasons=tuple(str(reason) for reason in rng.choice(FINISH_REASONS, n)),
    )


def random_scored(rng, number):
    samples = random_samples(rng, number)
    n = samples.num_samples
    return ScoredGroup(
        samples=samples,
        scores=np.where(rng.random(n) < 0.2, -np.inf, rng.normal(size=n)),
        rewards=rng.normal(size=n),
        statuses=tuple(str(status) for status in rng.choice(STATUSES, n)),
        answers=tuple([None, "", "3 + 4", "数"][i] for i in rng.integers(4, size=n)),
        latencies_s=rng.exponential(size=n).astype(np.float32),
        demonstration=random_demonstration(rng),
    )


def random_demonstration(rng):
    if rng.random() < 0.5:
        return None
    return Demonstration(
        token_ids=rng.integers(0, 2**31, rng.integers(1, 9)).astype(np.int32),
        score=float(rng.choice([-np.inf, 0.0, 0.7])),
    )


def assert_same(ours, theirs):
    for name in (field.name for field in dataclasses.fields(ours)):
        ours_value, theirs_value = getattr(ours, name), getattr(theirs, name)
        if isinstance(ours_value, SampleGroup | Demonstration):
            assert_same(ours_value, theirs_value)
        elif isinstance(ours_value, np.ndarray):
            assert ours_value.dtype == theirs_value.dtype, name
            assert ours_value.tobytes() == theirs_value.tobytes(), name
        else:
            assert ours_value == theirs_value and type(ours_value) is type(theirs_value), name


def assert_all_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other)


def as_sent(batch):
    """The batch as another process reads it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()


FORMS = pytest.mark.parametrize(
    ("make", "to_batch", "from_batch", "schema"),
    [
        (random_samples, samples_to_batch, samples_from_batch, SAMPLE_SCHEMA),
        (random_scored, scored_to_batch, scored_from_batch, SCORED_SCHEMA),
    ],
    ids=["samples", "scored"],
)


@FORMS
@pytest.mark.parametrize("seed", range(10))
def test_groups_come_back_as_they_were(make, to_batch, from_batch, schema, seed):
    rng = np.random.default_rng(seed)
    groups = [make(rng, number) for number in range(rng.integers(1, 8))]
    batch = to_batch(groups)
    assert batch.schema == schema and batch.num_rows == len(groups)
    batch.validate(full=True)
    assert_all_same(groups, from_batch(batch))
    assert_all_same(groups, from_batch(as_sent(batch)))


@pytest.mark.parametrize("seed", range(10))
def test_verdicts_that_went_another_way_than_the_samples_are_put_beside_them_again(seed):
    rng = np.random.default_rng(seed)
    groups = [random_scored(rng, number) for number in range(int(rng.integers(1, 8)))]
    split = int(rng.integers(len(groups) + 1))
    batches = [
        as_sent(samples_to_batch([group.samples for group in part]))
        for part in (groups[:split], groups[split:])
    ]
    places = [[(int(number >= split), number - split * (number >= split))] for number in range(len(groups))]
    order = rng.permutation(len(groups))
    judgements = [
        Judgement(
            **{field.name: getattr(groups[place], field.name) for field in dataclasses.fields(Judgement)}
        )
        for place in order
    ]
    batch = judgements_to_batch(judgements, order, [places[place] for place in order])
    assert batch.schema == JUDGEMENT_SCHEMA
    batch.validate(full=True)
    expected = [groups[place] for place in order]
    assert_all_same(expected, scored_from_judgements(as_sent(batch), batches))
    samples = [group.samples for group in expected]
    assert_all_same(expected, [ScoredGroup.of(*pair) for pair in zip(samples, judgements, strict=True)])


def test_verdicts_are_put_beside_no_other_groups_samples():
    rng = np.random.default_rng(0)
    one, other = random_scored(rng, 1), random_scored(rng, 2)
    with pytest.raises(AssertionError):
        scored_from_judgements(
            judgements_to_batch([one], [1], [[(0, 0)]]), [samples_to_batch([other.samples])]
        )


def test_the_facts_of_a_group_are_what_can_be_told_without_its_tokens():
    group = samples()
    assert GroupFacts.of(group) == GroupFacts(
        piece=Piece(3, 0, 2),
        problem_id=group.problem_id,
        workers=("rollout-0",),
        num_tokens=4,
        newest_version=6,
        oldest_version=5,
        finish_reasons=frozenset({"stop", "length"}),
        only_text=None,
    )
    assert GroupFacts.of(samples(texts=("one", "one"))).has_one_text


# Pieces


def piece_of(group, start, stop):
    """What a worker that was leased these samples alone would return."""
    first, last = group.offsets[start], group.offsets[stop]
    return dataclasses.replace(
        group,
        workers=group.workers[start:stop],
        seed=group.seed + start,
        offsets=group.offsets[start : stop + 1] - first,
        **{name: getattr(group, name)[first:last] for name in ("token_ids", "logprobs", "versions")},
        texts=group.texts[start:stop],
        finish_reasons=group.finish_reasons[start:stop],
    )


def divided(rng, group):
    """Random pieces that are the group, with the first sample of each."""
    n = group.num_samples
    cuts = np.flatnonzero(rng.random(n - 1) < 0.4) + 1
    bounds = [0, *(int(cut) for cut in cuts), n]
    return [(start, piece_of(group, start, stop)) for start, stop in itertools.pairwise(bounds)]


@pytest.mark.parametrize("seed", range(20))
def test_a_divided_group_is_byte_for_byte_the_undivided_one(seed):
    rng = np.random.default_rng(seed)
    group = random_samples(rng, 5)
    pieces = divided(rng, group)
    assert_same(joined([piece for _, piece in pieces]), group)
    facts = [GroupFacts.of(piece, start) for start, piece in pieces]
    merged, whole = GroupFacts.joined(facts), GroupFacts.of(group)
    for field in dataclasses.fields(GroupFacts):
        assert getattr(merged, field.name) == getattr(whole, field.name), field.name


@pytest.mark.parametrize("seed", range(10))
def test_verdicts_find_the_pieces_of_their_group_in_any_batches(seed):
    rng = np.random.default_rng(seed)
    groups = [random_scored(rng, number) for number in range(4)]
    batches, places = [[], [], []], []
    for group in groups:
        places.append([])
        for _, piece in divided(rng, group.samples):
            number = int(rng.integers(3))
            places[-1].append((number, len(batches[number])))
            batches[number].append(piece)
    judgements = as_sent(judgements_to_batch(groups, range(4), places))
    stored = [as_sent(samples_to_batch(batch)) for batch in batches]
    assert_all_same(groups, scored_from_judgements(judgements, stored))


def test_pieces_that_do_not_follow_each_other_are_no_group():
    group = random_samples(np.random.default_rng(3), 5)
    assert group.num_samples > 2
    first, rest = piece_of(group, 0, 1), piece_of(group, 1, group.num_samples)
    for wrong in ([rest, first], [first, first], [first, dataclasses.replace(rest, group=6)]):
        with pytest.raises(AssertionError):
            joined(wrong)


def test_pieces_whose_texts_are_alike_in_each_alone_are_not_alike():
    def facts(start, text):
        return GroupFacts.of(samples(texts=(text, text)), start)

    assert not GroupFacts.joined([facts(0, "one"), facts(2, "two")]).has_one_text
    assert GroupFacts.joined([facts(0, "one"), facts(2, "one")]).has_one_text


def test_files_from_before_groups_were_divided_are_read():
    group = scored(rewards=[1.0, 0.0], scores=[0.5, -np.inf])
    batch = scored_to_batch([group])
    columns = {name: batch[name] for name in batch.schema.names if name != "workers"}
    old = pa.RecordBatch.from_pydict({**columns, "worker": pa.array(["rollout-0"])})
    assert_all_same([group], scored_from_batch(old))


@FORMS
@pytest.mark.parametrize(("start", "length"), [(0, 2), (2, 3), (5, 1), (3, 0)])
def test_a_slice_of_a_batch_holds_the_groups_of_the_slice(make, to_batch, from_batch, schema, start, length):
    rng = np.random.default_rng(0)
    groups = [make(rng, number) for number in range(6)]
    part = to_batch(groups).slice(start, length)
    assert_all_same(groups[start : start + length], from_batch(part))
    assert_all_same(groups[start : start + length], from_batch(as_sent(part)))
    assert_all_same(groups[start : start + length][1:], from_batch(part.slice(1)))


@FORMS
def test_groups_that_were_views_of_a_batch_can_be_sent_on(make, to_batch, from_batch, schema):
    rng = np.random.default_rng(1)
    groups = [make(rng, number) for number in range(5)]
    views = from_batch(to_batch(groups).slice(1))
    assert to_batch(views[::-1]).equals(to_batch(groups[:0:-1]))


@FORMS
def test_no_groups_are_an_empty_batch(make, to_batch, from_batch, schema):
    assert to_batch([]).schema == schema
    assert from_batch(as_sent(to_batch([]))) == []


def test_the_columns_say_what_they_hold():
    group = scored(rewards=[1.0, 0.0], scores=[0.5, -np.inf])
    assert scored_to_batch([group]).to_pylist() == [
        {
            "group": 3,
            "problem_id": "p",
            "workers": ["rollout-0", "rollout-0"],
            "seed": 11,
            "prompt_token_ids": [7, 8],
            "token_ids": [[1, 2, 3], [4]],
            "logprobs": [[-0.5, -0.25, 0.0], [-2.0]],
            "versions": [[5, 5, 6], [6]],
            "texts": ["one", ""],
            "finish_reasons": ["stop", "length"],
            "scores": [0.5, -np.inf],
            "rewards": [1.0, 0.0],
            "statuses": ["ok", "wrong_format"],
            "answers": ["one", None],
            "latencies_s": [0.5, 0.25],
            "demonstration_token_ids": None,
            "demonstration_score": None,
        }
    ]
    assert group.samples.num_samples == 2 and group.samples.oldest_version == 5


# What is not a group


def samples(**changes):
    fields = {
        "group": 3,
        "problem_id": "p",
        "workers": ("rollout-0", "rollout-0"),
        "seed": 11,
        "prompt_token_ids": np.array([7, 8], np.int32),
        "offsets": np.array([0, 3, 4], np.int32),
        "token_ids": np.array([1, 2, 3, 4], np.int32),
        "logprobs": np.array([-0.5, -0.25, 0.0, -2.0], np.float32),
        "versions": np.array([5, 5, 6, 6], np.int32),
        "texts": ("one", ""),
        "finish_reasons": ("stop", "length"),
    }
    return SampleGroup(**{**fields, **changes})


def scored(*, rewards, scores):
    return ScoredGroup(
        samples=samples(),
        scores=np.array(scores),
        rewards=np.array(rewards),
        statuses=("ok", "wrong_format"),
        answers=("one", None),
        latencies_s=np.array([0.5, 0.25], np.float32),
    )


def logprobs_with(value):
    return np.array([-0.5, value, 0.0, -2.0], np.float32)


@pytest.mark.parametrize("offsets", [[0, 4, 4], [0, 0, 4]])
def test_a_sample_without_tokens_is_refused(offsets):
    with pytest.raises(ValueError) as error:
        samples(offsets=np.array(offsets, np.int32))
    assert str(error.value) == "group 3 of rollout-0 has a sample without tokens"


@pytest.mark.parametrize("value", [np.nan, 0.1, np.inf])
def test_a_log_probability_that_is_none_is_refused(value):
    with pytest.raises(ValueError) as error:
        samples(logprobs=logprobs_with(value))
    assert str(error.value) == "group 3 of rollout-0 has a behaviour log-probability that is NaN or > 0"


def test_a_log_probability_may_exceed_zero_by_the_rounding_of_a_softmax():
    assert samples(logprobs=logprobs_with(1e-6)).logprobs[1] == np.float32(1e-6)


def test_a_finish_reason_that_means_no_completion_is_refused():
    with pytest.raises(ValueError, match="group 3 of rollout-0 has finish reasons .*'abort'.*, not all in"):
        samples(finish_reasons=("stop", "abort"))


@pytest.mark.parametrize(
    "changes",
    [
        {"texts": ("one",)},
        {"workers": ("rollout-0",)},
        {"finish_reasons": ("stop",)},
        {"offsets": np.array([0, 4], np.int32)},
        {"offsets": np.array([0, 3, 5], np.int32)},
        {"offsets": np.array([1, 3, 4], np.int32)},
        {"logprobs": np.zeros(3, np.float32)},
        {"versions": np.zeros(5, np.int32)},
    ],
)
def test_fields_that_disagree_on_the_number_of_samples_or_tokens_are_a_programmers_error(changes):
    with pytest.raises(AssertionError):
        samples(**changes)


@pytest.mark.parametrize(
    ("rewards", "scores"),
    [
        ([1.0, np.nan], [1.0, 0.0]),
        ([1.0, np.inf], [1.0, 0.0]),
        ([1.0, 0.0], [np.nan, 0.0]),
        ([np.nan, np.nan], [np.nan, np.nan]),
    ],
)
def test_a_candidate_without_a_verdict_is_refused(rewards, scores):
    with pytest.raises(ValueError) as error:
        scored(rewards=rewards, scores=scores)
    assert str(error.value) == "a group has a candidate without a verdict"


def test_a_missing_verdict_is_a_programmers_error():
    with pytest.raises(AssertionError):
        scored(rewards=[1.0], scores=[1.0])
