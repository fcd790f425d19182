"""Which demonstrations a step learns from, and what makes two sets of them the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from learner.supervised.config import SftConfig
from learner.supervised.demonstrations import Demonstrations, choose_held_out, fingerprint, lay_out

SEQUENCES = lay_out([(1, 2), (3,), (4, 5, 6)], [(7, 0), (8, 9, 0), (0,)])


def demonstrations(num: int, batch_size: int, num_rows: int, seed: int = 0) -> Demonstrations:
    return Demonstrations(
        sequences=SEQUENCES,
        trained=np.arange(100, 100 + num),
        held_out=np.arange(0),
        batch_size=batch_size,
        num_rows=num_rows,
        seed=seed,
    )


@pytest.mark.parametrize(("batch_size", "num_rows"), [(4, 30), (3, 20), (25, 40), (10, 10), (7, 5)])
def test_every_epoch_has_each_demonstration_once_and_the_last_step_what_is_left(batch_size, num_rows):
    data = demonstrations(10, batch_size, num_rows)
    steps = [data.of_step(step).tolist() for step in range(data.num_steps)]
    rows = [row for step in steps for row in step]
    assert [len(step) for step in steps[:-1]] == [batch_size] * (len(steps) - 1)
    assert len(rows) == num_rows and 0 < len(steps[-1]) <= batch_size
    for epoch in range(0, num_rows, 10):
        counts = Counter(rows[epoch : epoch + 10])
        assert set(counts.values()) == {1} and counts.keys() <= set(range(100, 110))


def test_orders_differ_by_epoch_and_by_seed_and_no_step_depends_on_others():
    data = demonstrations(10, 10, 30)
    first, second = data.of_step(0).tolist(), data.of_step(1).tolist()
    assert first != second and first != demonstrations(10, 10, 30, seed=1).of_step(0).tolist()
    assert demonstrations(10, 10, 30).of_step(1).tolist() == second


def test_completions_lie_behind_their_prompts():
    assert SEQUENCES.token_ids.tolist() == [1, 2, 7, 0, 3, 8, 9, 0, 4, 5, 6, 0]
    assert SEQUENCES.starts.tolist() == [0, 4, 8]
    assert SEQUENCES.num_samples == 0 and SEQUENCES.demonstrations.tolist() == [0, 1, 2]
    assert SEQUENCES.num_positions_S.tolist() == [3, 3, 3]


def test_a_fingerprint_tells_tokens_and_where_a_prompt_ends():
    same = lay_out([(1, 2), (3,), (4, 5, 6)], [(7, 0), (8, 9, 0), (0,)])
    moved = lay_out([(1, 2), (3,), (4, 5)], [(7, 0), (8, 9, 0), (6, 0)])
    other = replace(SEQUENCES, token_ids=SEQUENCES.token_ids + (np.arange(12) == 5))
    assert fingerprint(same) == fingerprint(SEQUENCES)
    assert len({fingerprint(one) for one in (SEQUENCES, moved, other)}) == 3


def hold_out(prompts, *, share):
    chosen = choose_held_out(prompts, share=share, at_most=len(prompts))
    return {prompts[number] for number in np.flatnonzero(chosen)}


def test_about_the_share_is_held_out_and_a_larger_share_holds_out_the_same_too():
    prompts = [(7, number) for number in range(4000)]
    few, more = (hold_out(prompts, share=share) for share in (0.05, 0.2))
    assert few < more
    # Binomial: 4000 trials, four standard deviations.
    assert abs(len(few) - 200) < 4 * (4000 * 0.05 * 0.95) ** 0.5
    assert abs(len(more) - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5
    assert not hold_out(prompts, share=0.0)


def test_a_prompt_is_held_out_with_all_its_demonstrations_and_wherever_it_stands():
    prompts = [(7, number) for number in range(400)]
    chosen = hold_out(prompts, share=0.2)
    assert hold_out([prompt for prompt in reversed(prompts) for _ in range(3)], share=0.2) == chosen
    twice = choose_held_out(prompts * 2, share=0.2, at_most=4000)
    assert np.array_equal(twice[:400], twice[400:])


@pytest.mark.parametrize("num_each", [1, 4])
def test_of_many_demonstrations_no_more_are_held_out_than_are_to_be_measured(num_each):
    prompts = [(7, number) for number in range(4000) for _ in range(num_each)]
    held_out = choose_held_out(prompts, share=0.5, at_most=100)
    assert 100 - num_each < held_out.sum() <= 100
    assert {prompts[number] for number in np.flatnonzero(held_out)} < hold_out(prompts, share=0.5)


def test_steps_or_epochs_say_how_long():
    assert SftConfig(base_model="m").num_rows(10) == 30
    assert SftConfig(base_model="m", epochs=0.25).num_rows(10) == 2
    assert SftConfig(base_model="m", epochs=0.01).num_rows(10) == 1
    assert SftConfig(base_model="m", steps=7, batch_size=5).num_rows(10) == 35


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"epochs": 2.0}, "epochs = 2.0 has no effect on a countdown model from scratch: remove it, or set base_model"),
        ({"base_model": "m", "corruption": 0.1}, "corruption = 0.1 has no effect with base_model = 'm'"),
        ({"base_model": "m", "steps": 3, "epochs": 1.0}, "epochs = 1.0 has no effect beside steps = 3"),
        (
            {"base_model": "m", "schedule": "constant", "schedule_floor": 0.2},
            "schedule_floor = 0.2 has no effect with schedule = 'constant'",
        ),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused(settings, line):
    with pytest.raises(ValueError, match=line):
        SftConfig(**settings)


def test_defaults_are_those_of_the_kind_and_what_is_written_reads_back():
    scratch, tuned = SftConfig(), SftConfig(base_model="m")
    assert (scratch.steps, scratch.batch_size, scratch.learning_rate, scratch.warmup_steps) == (
        1000,
        128,
        2e-3,
        100,
    )
    assert (tuned.steps, tuned.batch_size, tuned.learning_rate, tuned.warmup_steps) == (None, 32, 2e-5, 10)
    for config in (scratch, tuned, SftConfig(base_model="m", steps=4, schedule="constant")):
        written = config.model_dump(mode="json", exclude_none=True)
        assert SftConfig(**written) == config
    assert "num_demonstrations" not in tuned.model_dump() and "held_out_share" not in scratch.model_dump()
