"""The exercises of the study on a real model: what is read of them, and that no story is in two splits."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import pytest

from benchmarks.study.exercises import (
    Exercise,
    Part,
    as_rows,
    deal,
    find_stories,
    read_svamp,
    renumbered,
    repeated,
    split,
    work_out,
)
from tests.shared.exercises import svamp_rows, write_rows


@pytest.mark.parametrize(
    ("equation", "working"),
    [
        ("( 290.0 / 2.0 )", ("290 / 2 = 145",)),
        ("( ( 19.0 + 4.0 ) * 15.0 )", ("19 + 4 = 23", "23 * 15 = 345")),
        ("( 7.0 - ( 3.0 + 2.0 ) )", ("3 + 2 = 5", "7 - 5 = 2")),
        ("( 4.0 - 8.0 )", ("4 - 8 = -4",)),
        ("8.0", ()),  # nothing is worked out
        ("( 7.0 / 2.0 )", ()),  # not a whole number
        ("( 7.0 / 0.0 )", ()),
        ("( 1.5 + 2.0 )", ()),
        ("__import__('os')", ()),
        ("", ()),
    ],
)
def test_an_equation_is_worked_out_step_by_step(equation, working):
    assert work_out(equation) == working


def test_svamp_is_read_with_a_demonstration_that_has_its_answer(tmp_path):
    rows = [
        {
            "ID": "a",
            "Body": "Each basket has 19 red and 4 green peaches. If there are 15 such  baskets",
            "Question": "How many peaches are in the baskets?",
            "Equation": "( ( 19.0 + 4.0 ) * 15.0 )",
            "Answer": 345.0,
        },
        {"ID": "b", "Body": "He has 8 planks.", "Question": "How many?", "Equation": "8.0", "Answer": 8.0},
        {"ID": "c", "Body": "x", "Question": "y", "Equation": "( 3.0 + 4.0 )", "Answer": 8.0},
    ]
    (exercise,) = read_svamp(write_rows(tmp_path / "svamp.jsonl", rows))
    assert exercise.question == (
        "Each basket has 19 red and 4 green peaches. If there are 15 such baskets, how many peaches are in the baskets?"
    )
    assert (exercise.id, exercise.answer) == ("a", "345")
    assert exercise.working == ("19 + 4 = 23", "23 * 15 = 345")
    assert exercise.demonstration == "#### (19 + 4) * 15"


@pytest.mark.parametrize(
    ("working", "equation"),
    [
        (("290 / 2 = 145",), "290 / 2"),
        (("3 + 2 = 5", "7 - 5 = 2"), "7 - (3 + 2)"),
        (("5 + 5 = 10", "2 + 8 = 10", "10 * 10 = 100"), "(2 + 8) * 10"),  # the same, whichever 10 is meant
        (("8 + 3 = 11", "11 - 2 = 9", "9 * 4 = 36"), "((8 + 3) - 2) * 4"),
    ],
)
def test_a_demonstration_is_the_equation_of_the_working(working, equation):
    assert exercise("q", *working).demonstration == f"#### {equation}"


def test_a_file_of_another_data_set_is_refused_in_one_line(tmp_path):
    path = write_rows(tmp_path / "other.jsonl", [{"question": "x", "answer": "#### 1"}])
    with pytest.raises(ValueError, match=r"other.jsonl has no field 'ID': give the file as it was published"):
        read_svamp(path)


def test_variations_of_a_story_are_found_whatever_their_numbers_and_questions():
    questions = [
        "Baker made 121 cakes. He sold 105 of them. How many cakes does baker still have?",
        "Dan had $ 3 left after he bought a candy bar. How much did the candy bar cost?",
        "Baker made 7 cakes and 9 pastries. If he sold 3 cakes, how many more cakes did baker make than he sold?",
        "Dan has $ 4. He bought a candy bar for $ 8. How much money is left?",
    ]
    assert find_stories(questions) == [0, 1, 0, 1]


def test_a_chain_of_variations_is_one_story():
    questions = ["red apples fell", "red apples fell on green grass", "they fell on green grass"]
    assert find_stories(questions) == [0, 0, 0]
    assert find_stories([questions[0], questions[2]]) == [0, 1]


def exercises(num_stories, of_each):
    return [
        Exercise(id=f"{story}-{i}", question="q", answer="1", working=("0 + 1 = 1",), story=story)
        for i in range(of_each)
        for story in range(num_stories)
    ]


PARTS = {
    "test": Part(stories=5, of_each=2),
    "tuning": Part(stories=3, of_each=None),
    "train": Part(stories=None, of_each=None),
}


def test_repeated_exercises_differ_in_nothing_but_their_names():
    once = exercises(2, 2)
    twice = repeated(once, 2)
    assert len({one.id for one in twice}) == 8
    assert [replace(one, id="") for one in twice] == [replace(one, id="") for one in once] * 2


def exercise(question, *working):
    answer = working[-1].split(" = ")[1]
    return Exercise(id="a", question=question, answer=answer, working=working, story=7)


def test_variations_have_other_numbers_and_a_working_that_follows_from_them():
    baskets = exercise(
        "A basket has 19 red and 4 green peaches. Of 15 such baskets 2 are mine. How many peaches in all, without half a dozen?",
        "19 + 4 = 23",
        "23 * 15 = 345",
        "345 - 6 = 339",
    )
    found = renumbered([baskets], 50, seed=0)
    assert [one.id for one in found] == [f"a~{turn}" for turn in range(50)]
    assert len({one.question for one in found}) == 50 and {one.story for one in found} == {7}
    for one in found:
        red, green, num, mine = map(int, re.findall(r"\d+", one.question))
        assert 9 <= red <= 38 and 2 <= green <= 8 and 7 <= num <= 30 and 1 <= mine <= 4
        total = (red + green) * num
        assert one.working == (
            f"{red} + {green} = {red + green}",
            f"{red + green} * {num} = {total}",
            f"{total} - 6 = {total - 6}",  # the half dozen has no number to be changed
        )
        assert one.answer == str(total - 6)
    assert found == renumbered([baskets], 50, seed=0) != renumbered([baskets], 50, seed=1)


def test_variations_come_out_even_and_above_nothing():
    shared = exercise("He shares 12 pens among 4 friends, and 5 are red.", "12 / 4 = 3")
    lost = exercise("Of 9 pens he lost 8.", "9 - 8 = 1")
    found = renumbered([shared, lost], 40, seed=0)
    assert len(found) == 80 and all(int(one.answer) > 0 for one in found)
    for one in found:
        assert work_out(one.working[0].split(" = ")[0]) == one.working


def test_what_cannot_be_followed_has_no_variations():
    """The second 3 is the result of the first line, or the 3 of the question."""
    twice = exercise("He has 11 nails, 8 more and 3 planks.", "11 - 8 = 3", "3 / 3 = 1")
    below_nothing = exercise("4 pounds, of which 19 are his.", "4 - 19 = -15", "19 - -15 = 34")
    assert renumbered([twice, below_nothing], 5, seed=0) == []


def test_no_story_is_in_two_splits():
    found = split(exercises(12, 4), PARTS, seed=0)
    assert {name: len(part) for name, part in found.items()} == {"test": 10, "tuning": 12, "train": 16}
    stories = {name: {one.story for one in part} for name, part in found.items()}
    assert sum(map(len, stories.values())) == 12 == len(set().union(*stories.values()))
    assert not any(one & other for one, other in itertools.combinations(stories.values(), 2))


def test_a_split_depends_on_its_seed_and_not_on_the_order_of_the_file():
    one, again = (split(order, PARTS, seed=3) for order in (exercises(12, 4), exercises(12, 4)[::-1]))
    assert one == again
    assert one != split(exercises(12, 4), PARTS, seed=4)


def test_exercises_are_dealt_whole_and_by_a_seed():
    given = exercises(12, 4)
    found = deal(given, {"test": 20, "tuning": 10}, rest="train", seed=0)
    assert {name: len(part) for name, part in found.items()} == {"test": 20, "tuning": 10, "train": 18}
    assert sorted(one.id for part in found.values() for one in part) == sorted(one.id for one in given)
    assert found == deal(given[::-1], {"test": 20, "tuning": 10}, rest="train", seed=0)
    assert found != deal(given, {"test": 20, "tuning": 10}, rest="train", seed=1)
    with pytest.raises(ValueError, match="48 exercises are too few for {'test': 48}"):
        deal(given, {"test": 48}, rest="train", seed=0)


def test_too_few_stories_are_refused():
    with pytest.raises(ValueError, match="8 stories are too few for splits of 9"):
        split(exercises(8, 2), PARTS, seed=0)


def test_generated_svamp_has_the_stories_it_was_made_of(tmp_path):
    found = read_svamp(write_rows(tmp_path / "svamp.jsonl", svamp_rows(num_stories=9, of_each=4)))
    assert len(found) == 36 and len({one.story for one in found}) == 9


def test_rows_hold_what_model_verifier_and_report_need():
    (row,) = map(json.loads, as_rows(exercises(1, 1)).splitlines())
    assert row == {
        "id": "0-0",
        "prompt": "q",
        "answer": "1",
        "demonstration": "#### 0 + 1",
        "story": 0,
    }
