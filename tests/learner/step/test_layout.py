"""The tiles of a layout are what its positions see, each pair once."""

from __future__ import annotations

import numpy as np
import pytest

from learner.step.layout import NONE, Layout


def random_layout(seed: int) -> Layout:
    """Prompts with zero to three continuations, with and without padding before and behind."""
    rng = np.random.default_rng(seed)
    segments: list[tuple[int, int, int]] = []
    position = int(rng.integers(0, 3))
    for _ in range(rng.integers(1, 4)):
        prompt, length = len(segments), int(rng.integers(1, 12))
        segments.append((position, length, NONE))
        position += length
        for _ in range(rng.integers(0, 4)):
            length = int(rng.integers(1, 15))
            segments.append((position, length, prompt))
            position += length
    starts, lengths, prefixes = np.array(segments).T
    return Layout(
        starts_G=starts,
        lengths_G=lengths,
        prefixes_G=prefixes,
        num_positions=position + int(rng.integers(0, 3)),
    )


def seen(layout: Layout, window: int | None) -> np.ndarray:
    """bool [X, X]: position by position along each sequence."""
    sees = np.zeros((layout.num_positions, layout.num_positions), bool)
    for start, length, prefix in zip(layout.starts_G, layout.lengths_G, layout.prefixes_G, strict=True):
        before = (
            [] if prefix == NONE else [layout.starts_G[prefix] + i for i in range(layout.lengths_G[prefix])]
        )
        path = [*before, *range(start, start + length)]
        for i in range(len(before), len(path)):
            for j in range(i + 1):
                sees[path[i], path[j]] = window is None or i - j < window
    return sees


def block(places) -> np.ndarray:
    flat = np.full(places.shape[0] * places.shape[1], -1)
    flat[slice(None) if places.slots is None else places.slots.numpy()] = places.positions.numpy()
    return flat.reshape(places.shape)


@pytest.mark.parametrize("window", [None, 1, 2, 3, 5, 8, 13, 30])
def test_every_pair_that_is_seen_is_in_one_tile_and_no_other_pair_is(window):
    for seed in range(40):
        layout = random_layout(seed)
        counts = np.zeros((layout.num_positions, layout.num_positions), int)
        for tile in layout.tiles(window):
            for queries, keys in zip(block(tile.queries), block(tile.keys), strict=True):
                assert tile.is_causal or keys.min() >= 0
                for row, query in enumerate(queries.tolist()):
                    visible = keys[: row + 1] if tile.is_causal else keys
                    if query >= 0:
                        counts[query, visible[visible >= 0]] += 1
                        assert visible.min() >= 0
        assert np.array_equal(counts, seen(layout, window)), seed


@pytest.mark.parametrize("window", [None, 1, 2, 5, 13])
def test_no_tile_has_a_query_twice_and_the_first_ones_have_each_once(window):
    for seed in range(40):
        layout = random_layout(seed)
        first: list[int] = []
        for tile in layout.tiles(window):
            queries = tile.queries.positions.tolist()
            assert len(set(queries)) == len(queries)
            first += queries if tile.is_first else []
        segments = zip(layout.starts_G.tolist(), layout.lengths_G.tolist(), strict=True)
        assert sorted(first) == sorted(p for start, length in segments for p in range(start, start + length))


def test_many_short_sequences_are_a_few_tiles_and_long_ones_are_not_padded():
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 24, 1000)
    many = Layout(
        starts_G=np.cumsum(lengths) - lengths,
        lengths_G=lengths,
        prefixes_G=np.full(1000, NONE),
        num_positions=int(lengths.sum()),
    )
    assert len(many.tiles()) == 1
    long = Layout(
        starts_G=np.array([0, 2000]),
        lengths_G=np.array([2000, 1900]),
        prefixes_G=np.array([NONE, NONE]),
        num_positions=3900,
    )
    assert [tile.queries.shape for tile in long.tiles()] == [(1, 2000), (1, 1900)]
    assert [tile.queries.stretch for tile in long.tiles()] == [slice(0, 2000), slice(2000, 3900)]


def test_a_window_as_long_as_the_longest_sequence_is_none():
    layout = random_layout(3)
    longest = int((layout.prefix_lengths_G + layout.lengths_G).max())
    assert layout.tiles(longest) is layout.tiles(None)
    assert layout.tiles(longest - 1) is not layout.tiles(None)
