"""Canonical forms: equal exactly for expressions that the laws of arithmetic make equal, whatever the numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifiers.countdown.expressions import MAX_CANONICAL_NUMBERS, canonical_form, evaluate, to_postfix

Tree = Any  # (operator, left, right) or a number
INVERSE = {"+": "-", "*": "/"}
NUMBERS = st.integers(1, 9)
TREES = st.recursive(NUMBERS, lambda trees: st.tuples(st.sampled_from("+-*/"), trees, trees), max_leaves=9)


def written(tree: Tree) -> str:
    """With every parenthesis."""
    return str(tree) if isinstance(tree, int) else f"({written(tree[1])}{tree[0]}{written(tree[2])})"


def form(text: str) -> str:
    postfix = to_postfix(text)
    assert postfix is not None
    canonical = canonical_form(postfix)
    assert canonical is not None
    return canonical


def value(text: str) -> object:
    postfix = to_postfix(text)
    assert postfix is not None
    return evaluate(postfix)


def rewritings(tree: Tree) -> Iterator[Tree]:
    """Every tree one law away, at any node: commutativity, associativity, and what they say of - and /."""
    if isinstance(tree, int):
        return
    operator, left, right = tree
    yield from ((operator, other, right) for other in rewritings(left))
    yield from ((operator, left, other) for other in rewritings(right))
    for plus, minus in INVERSE.items():
        if operator == plus:
            yield (plus, right, left)
        # x ~ (y o z) = (x ~ y) ~' z, read both ways
        for outer, inner, joined in [
            (plus, plus, plus),
            (minus, plus, minus),
            (plus, minus, minus),
            (minus, minus, plus),
        ]:
            # (x inner y) outer z = x inner (y joined z)
            if operator == outer and isinstance(left, tuple) and left[0] == inner:
                yield (inner, left[1], (joined, left[2], right))
            if operator == inner and isinstance(right, tuple) and right[0] == joined:
                yield (outer, (inner, left, right[1]), right[2])


def trees_over(numbers: tuple[int, ...]) -> Iterator[Tree]:
    """Every expression of these numbers in this order."""
    if len(numbers) == 1:
        yield numbers[0]
    for cut in range(1, len(numbers)):
        pairs = product(trees_over(numbers[:cut]), trees_over(numbers[cut:]))
        yield from ((operator, left, right) for left, right in pairs for operator in "+-*/")


def classes_by_law(trees: set[Tree]) -> set[frozenset[Tree]]:
    """Slow transcription: whatever a chain of rewritings connects."""
    left, classes = set(trees), set()
    while left:
        found = set()
        frontier = [left.pop()]
        while frontier:
            tree = frontier.pop()
            found.add(tree)
            frontier += set(rewritings(tree)) - found
        left -= found
        classes.add(frozenset(found))
    return classes


@pytest.mark.parametrize("numbers", [(2, 3, 5), (2, 3, 3), (2, 3, 5, 7), (4, 4, 1, 4)])
def test_forms_are_equal_exactly_where_the_laws_of_arithmetic_connect(numbers: tuple[int, ...]) -> None:
    trees = {tree for order in permutations(numbers) for tree in trees_over(order)}
    by_form = defaultdict(set)
    for tree in trees:
        by_form[form(written(tree))].add(tree)
    assert {frozenset(members) for members in by_form.values()} == classes_by_law(trees)


def test_the_rewritings_of_the_transcription_keep_the_value() -> None:
    for tree in trees_over((2, 3, 5, 7)):
        for other in rewritings(tree):
            assert None in (value(written(tree)), value(written(other))) or (
                value(written(tree)) == value(written(other))
            )


@settings(max_examples=300, deadline=None, database=None)
@given(tree=TREES, picks=st.lists(st.integers(0, 10**6), max_size=12))
def test_any_chain_of_rewritings_keeps_the_form(tree: Tree, picks: list[int]) -> None:
    expected = form(written(tree))
    for pick in picks:
        choices = list(rewritings(tree))
        if choices:
            tree = choices[pick % len(choices)]
    assert form(written(tree)) == expected


@settings(max_examples=300, deadline=None, database=None)
@given(tree=TREES)
def test_a_form_is_an_expression_of_the_same_numbers_and_value_and_its_own_form(tree: Tree) -> None:
    text = written(tree)
    canonical = form(text)
    assert form(canonical) == canonical
    numbers = [
        sorted(item for item in to_postfix(t) or [] if isinstance(item, int)) for t in (text, canonical)
    ]
    assert numbers[0] == numbers[1]
    if value(text) is not None:
        assert value(canonical) == value(text)


@settings(max_examples=300, deadline=None, database=None)
@given(TREES, TREES)
def test_expressions_of_different_value_have_different_forms(one: Tree, other: Tree) -> None:
    values = value(written(one)), value(written(other))
    if None not in values and values[0] != values[1]:  # 8 / (1 / 0) reads 0 * 8 / 1
        assert form(written(one)) != form(written(other))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("4 * (3 + 2)", "( 2 + 3 ) * 4"),
        ("(2 + 3) * 4", "( 2 + 3 ) * 4"),
        ("8 - (3 + 2)", "8 - 2 - 3"),
        ("8 - 3 - 2", "8 - 2 - 3"),
        ("1 - (2 - 3)", "1 + 3 - 2"),
        ("8 / (4 / 2)", "2 * 8 / 4"),
        ("8 / (2 * 4)", "8 / 2 / 4"),
        ("9 / (1 + 2) - 3 * 2", "9 / ( 1 + 2 ) - 2 * 3"),
        ("((007))", "7"),
    ],
)
def test_forms_read_as_expected(text: str, canonical: str) -> None:
    assert form(text) == canonical


def test_nothing_is_computed_or_cancelled() -> None:
    assert len({form(text) for text in ("2 + 2", "2 * 2", "4", "4 * 1", "4 + 0", "8 / 2")}) == 6
    assert form("2 * ( 3 + 4 )") != form("2 * 3 + 2 * 4")


def test_only_expressions_of_bounded_size_have_a_form() -> None:
    for num_numbers, has_form in ((MAX_CANONICAL_NUMBERS, True), (MAX_CANONICAL_NUMBERS + 1, False)):
        nested = "1" + "".join(f"{'+*'[i % 2]}(1" for i in range(num_numbers - 1)) + ")" * (num_numbers - 1)
        postfix = to_postfix(nested)
        assert postfix is not None
        assert (canonical_form(postfix) is not None) == has_form
