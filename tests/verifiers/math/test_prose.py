"""The answer in a text that marks none."""

from __future__ import annotations

import pytest

from verifiers.math.prose import answer_in_prose


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("He has 5 * 6 = 30 apples.", "30"),
        ("The total is \\( 48 + 24 = 72 \\).", " 48 + 24 = 72 "),
        ("# Answer\n\n72", "72"),
        ("**Answer**\n\n$$x = 4$$", "x = 4"),
        ("We found the answer, 12, after 3 steps.", "12"),
        ("It costs $18 and then $20 in all.", "$20"),
        ("It grew by minus 5", "-5"),
        ("It is −5 degrees.", "−5"),
        ("It is 25% of them.", "25%"),
        ("A share of 3/4 remains.", "3/4"),
        ("In all 1,250.50 dollars.", "1,250.50"),
        ("Step 1. Add.\nStep 2. Subtract.\nStep 3.", None),
        ("12 is not the answer.", None),
        ("I give up.", None),
        ("The file x2 is in v3.", None),
    ],
)
def test_the_formula_or_number_near_the_word_answer_or_last(text: str, answer: str | None):
    assert answer_in_prose(text) == answer
