"""What is read from a worked answer: its plan, and whether its arithmetic is right. The texts are odd on purpose."""

from __future__ import annotations

import pytest

from benchmarks.study.workings import adds_up, has_slip, plan

QUESTION = "There are 87 oranges and 1,290 bananas in 2 groups of 4.0 kg."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("87 + 2 = 89\n#### 89", "2+87"),
        ("2 + 87 = 89\n#### 89", "2+87"),  # one plan in another order
        ("87 + 2 = 99\n#### 99", "2+87"),  # a slip is no other plan
        ("87 - 2 = 85", "87-2"),
        ("2 - 87 = 85", "2-87"),
        ("87+2=89\n89*4=356", "2+87 4*r"),
        ("(87 + 2) * 4 = 356", "2+87 4*r"),  # in one line what was in two
        ("87 + 2 = 89 * 4 = 356", "2+87 4*r"),
        ("87 + 2 = 88\n88 * 4", "2+87 4*r"),  # its own result, also a wrong one
        ("87 + 2 = 89\n87 + 2 = 89", "2+87"),
        ("1,290 / 2 = 645", "1290/2"),
        ("$1290 ÷ 2 = $645.00", "1290/2"),
        ("1290 \\div 2", "1290/2"),
        ("87 x 2 = 174", "2*87"),
        ("87 × 2", "2*87"),
        ("87 − 2", "87-2"),
        ("86 - 2 = 84", "?-2"),  # miscopied
        ("2.5 * 4 = 10", "4*?"),
        ("89 = 87 + 2", "2+87"),
        ("The answer is 89.", ""),
        ("#### 89", ""),
        ("a 2-year-old of 4 kg", ""),
        ("12 pens - 5 pens = 7 pens", ""),
        ("= = = + - (", ""),
        ("87 + = 89", ""),
        ("((((((87", ""),
        ("87 + 2 * = 4", "2+87"),  # what is left open is left out
        ("3.14.15 + 2", ""),
        ("", ""),
        ("²³ + ½ = ٣", ""),
        ("87 +\n2", ""),  # not across lines
    ],
)
def test_a_plan_is_the_calculations_without_their_results(text, expected):
    assert plan(QUESTION, text) == expected


@pytest.mark.parametrize(
    ("text", "slipped"),
    [
        ("12 - 5 = 7", False),
        ("12 - 5 = 8", True),
        ("12 - 5 = 7\n7 * 2 = 15\n#### 15", True),
        ("(12 - 5) * 2 = 14", False),
        ("12 - 5 = 7 * 2 = 14", True),  # 12 - 5 is not 14
        ("7 = 12 - 5", False),
        ("8 = 12 - 5", True),
        ("10 / 3 = 3.33", False),  # rounded
        ("10 / 3 = 3.4", True),
        ("10 / 4 = 2.5", False),
        ("10 / 4 = 2", True),
        ("1,290 + 1 = 1,291", False),
        ("$5 + $6 = $12", True),
        ("1 / 0 = 5", False),  # no value to compare with
        ("x = 5", False),
        ("5 = 6", False),  # no calculation
        ("12 pens - 5 pens = 8 pens", False),  # not judged
        ("1.5 + 2 = 9", False),
        ("2 + 2 is 5", False),
        ("2 + 2 = five", False),
        ("2 + 2 = = 5", False),
        ("", False),
    ],
)
def test_a_slip_is_a_false_calculation(text, slipped):
    assert has_slip(text) is slipped


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("12 - 5 = 7\n#### 7", True),
        ("12 - 5 = 7\n7 * 2 = 15\n#### 15", False),
        ("12 - 5 = 8\n7 * 2 = 14\n#### 14", False),
        ("#### 7", False),  # writes no calculation
        ("12 pens - 5 pens = 7 pens", False),
        ("", False),
    ],
)
def test_a_calculator_accepts_what_writes_calculations_and_none_that_is_false(text, accepted):
    assert adds_up(text) is accepted


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["(", "1+", "1=", "9", "1 ", "1,000", "x1", "((1)", "$", "1.0", "9*8=9*9="])
def test_hostile_texts_are_read_to_no_great_length(unit):
    text = unit * 100_000
    assert len(plan(text, text)) < 2_000
    assert has_slip(text) == (unit == "9*8=9*9=")
