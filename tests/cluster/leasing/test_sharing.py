"""Shares of engines against a slow transcription: one sample after the other to the engine that has least."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.leasing.sharing import even_shares, piece_size, smallest_piece

loads_and_rooms = st.lists(
    st.tuples(st.integers(0, 40), st.one_of(st.integers(0, 30), st.just(math.inf))), max_size=6
)


def slow_shares(loads, rooms, total):
    shares = [0] * len(loads)
    for _ in range(total):
        open_ones = [place for place in range(len(loads)) if shares[place] < rooms[place]]
        if not open_ones:
            break
        shares[min(open_ones, key=lambda place: (loads[place] + shares[place], place))] += 1
    return shares


@settings(max_examples=400, deadline=None)
@given(loads_and_rooms, st.integers(0, 120))
def test_shares_are_those_of_giving_each_sample_to_the_engine_that_has_least(engines, total):
    loads, rooms = [load for load, _ in engines], [room for _, room in engines]
    assert even_shares(loads, rooms, total) == slow_shares(loads, rooms, total)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 64), st.integers(-20, 80), st.integers(1, 64))
def test_a_piece_is_what_comes_nearest_to_the_share_without_a_remnant_on_either_side(rest, share, smallest):
    size = piece_size(rest, share, smallest)
    possible = [0, *range(smallest, rest - smallest + 1), rest]
    assert size in possible
    assert abs(size - share) == min(abs(one - share) for one in possible)


@pytest.mark.parametrize(
    ("group_size", "engine_size", "expected"),
    [(16, 128, 16), (64, 128, 16), (64, 8, 8), (4, 8, 4), (512, 256.0, 32)],
)
def test_the_smallest_piece_is_a_part_of_an_engine_and_never_less_than_a_prompt_is_worth(
    group_size, engine_size, expected
):
    assert smallest_piece(group_size, engine_size) == expected
