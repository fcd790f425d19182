"""HumanEval and MBPP semantics: canonical solutions pass, mutants do not, and answers are read as people write them.

The problems are written for these tests, in the exact published formats.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

import pytest

from tests.shared.programs import human_eval, make_verifier, mbpp
from verifiers.config import VerifierConfig
from verifiers.process.killable import VerifierProcess
from verifiers.programs.python_tests import PythonTests, check_problem, job_of
from verifiers.sandbox.sandbox import UnsupportedTestsError
from verifiers.types import Problem


@pytest.fixture(scope="module")
def verifier() -> Iterator[PythonTests]:
    verifier = make_verifier()
    yield verifier
    verifier.close()


CLOSE = human_eval(
    "from typing import List\n\n\n"
    "def has_close(numbers: List[float], threshold: float) -> bool:\n"
    '    """ Whether any two numbers are closer than the threshold.\n'
    "    >>> has_close([1.0, 2.0], 0.5)\n    False\n"
    '    """\n',
    "has_close",
    "\n\nMETADATA = {\n    'author': 'jt',\n    'dataset': 'test'\n}\n\n\n"
    "def check(candidate):\n"
    "    assert candidate([1.0, 2.0, 3.9, 4.0], 0.3) == True\n"
    "    assert candidate([1.0, 2.0, 3.9], 0.3) == False\n"
    "    assert candidate([], 1.0) == False\n\n",
)
CLOSE_BODY = (
    "    for i, a in enumerate(numbers):\n"
    "        for b in numbers[i + 1:]:\n"
    "            if abs(a - b) < threshold:\n"
    "                return True\n"
    "    return False\n"
)

ROOT_OF = human_eval(
    "import math\n\n\n"
    "def poly(xs: list, x: float):\n"
    '    """\n    Value at x of the polynomial with these coefficients.\n    """\n'
    "    return sum([coeff * math.pow(x, i) for i, coeff in enumerate(xs)])\n\n\n"
    "def find_zero(xs: list):\n"
    '    """ A zero of the polynomial; xs has an even number of coefficients.\n    """\n',
    "find_zero",
    "\n\nMETADATA = {}\n\n\n"
    "def check(candidate):\n"
    "    import math\n    import random\n    import copy\n"
    "    rng = random.Random(42)\n"
    "    for _ in range(20):\n"
    "        ncoeff = 2 * rng.randint(1, 3)\n"
    "        coeffs = [rng.randint(-10, 10) or 1 for _ in range(ncoeff)]\n"
    "        solution = candidate(copy.deepcopy(coeffs))\n"
    "        assert math.fabs(poly(coeffs, solution)) < 1e-3\n\n",
)
ROOT_BODY = (
    "    begin, end = -1.0, 1.0\n"
    "    while poly(xs, begin) * poly(xs, end) > 0:\n"
    "        begin *= 2.0\n        end *= 2.0\n"
    "    for _ in range(200):\n"
    "        center = (begin + end) / 2.0\n"
    "        if poly(xs, center) * poly(xs, begin) > 0:\n            begin = center\n"
    "        else:\n            end = center\n"
    "    return begin\n"
)

DECODE = human_eval(
    "def encode_shift(s: str):\n"
    '    """ Shifts every letter by 5. """\n'
    '    return "".join([chr(((ord(ch) + 5 - ord("a")) % 26) + ord("a")) for ch in s])\n\n\n'
    "def decode_shift(s: str):\n"
    '    """ Undoes encode_shift. """\n',
    "decode_shift",
    "def check(candidate):\n"
    "    from random import randint, choice\n    import copy\n    import string\n"
    "    letters = string.ascii_lowercase\n"
    "    for _ in range(20):\n"
    "        str = ''.join(choice(letters) for i in range(randint(10, 20)))\n"
    "        encoded_str = encode_shift(str)\n"
    "        assert candidate(copy.deepcopy(encoded_str)) == str\n",
)
DECODE_BODY = '    return "".join([chr(((ord(ch) - 5 - ord("a")) % 26) + ord("a")) for ch in s])\n'

FRACTION = human_eval(
    'def truncate(number: float) -> float:\n    """ The part after the point. """\n',
    "truncate",
    "def check(candidate):\n"
    "    assert candidate(3.5) == 0.5\n"
    "    assert abs(candidate(1.33) - 0.33) < 1e-6\n"
    "    assert abs(candidate(123.456) - 0.456) < 1e-6\n",
)

RAISES = human_eval(
    'def parse(text):\n    """ The integer, or ValueError. """\n',
    "parse",
    "def check(candidate):\n"
    "    assert candidate('12') == 12\n"
    "    try:\n        candidate('x')\n        assert False, 'no error'\n"
    "    except ValueError:\n        pass\n",
)

SORT_IN_PLACE = human_eval(
    'def sort_it(items):\n    """ Sorts the list in place and returns nothing. """\n',
    "sort_it",
    "def check(candidate):\n"
    "    items = [3, 1, 2]\n    assert candidate(items) is None\n    assert items == [1, 2, 3]\n"
    "    table = {'a': [2, 1]}\n    candidate(table['a'])\n    assert table == {'a': [1, 2]}\n",
)

PAIR = mbpp(
    "assert max_chain_length([Pair(5, 24), Pair(15, 25),Pair(27, 40), Pair(50, 60)], 4) == 3",
    "assert max_chain_length([Pair(1, 2), Pair(3, 4),Pair(5, 6), Pair(7, 8)], 4) == 4",
    "assert max_chain_length([Pair(19, 10), Pair(11, 12),Pair(13, 14), Pair(15, 16), Pair(31, 54)], 5) == 5",
    test_setup_code="", challenge_test_list=[],
)  # fmt: skip
PAIR_CODE = (
    "class Pair(object):\r\n\tdef __init__(self, a, b):\r\n\t\tself.a = a\r\n\t\tself.b = b\r\n"
    "def max_chain_length(arr, n):\r\n\tlongest = [1] * n\r\n"
    "\tfor i in range(1, n):\r\n\t\tfor j in range(i):\r\n"
    "\t\t\tif arr[i].a > arr[j].b:\r\n\t\t\t\tlongest[i] = max(longest[i], longest[j] + 1)\r\n"
    "\treturn max(longest)"
)

TREE = mbpp(
    "assert depth(root) == 3",
    "assert depth(root.left) == 2",
    test_setup_code="root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)",
    challenge_test_list=[],
)
TREE_CODE = (
    "class Node:\n    def __init__(self, value):\n        self.value, self.left, self.right = value, None, None\n"
    "def depth(node):\n    return 0 if node is None else 1 + max(depth(node.left), depth(node.right))\n"
)

CASES: dict[str, tuple[Problem, str, list[str]]] = {
    "floats": (CLOSE, CLOSE_BODY, [CLOSE_BODY.replace("< threshold", "<= 10"), "    return True\n", "    pass\n"]),
    "helper of the prompt": (ROOT_OF, ROOT_BODY, [ROOT_BODY.replace("range(200)", "range(2)"), "    return 0.0\n"]),
    "random inputs": (DECODE, DECODE_BODY, [DECODE_BODY.replace("- 5", "- 4"), "    return s\n"]),
    "tolerance": (FRACTION, "    return number % 1.0\n", ["    return number // 1.0\n", "    return 0.5\n"]),
    "expected error": (
        RAISES, "    return int(text)\n",
        ["    return 12\n", "    raise KeyError(text)\n", "    return 12 if text == '12' else 1 / 0\n"],
    ),
    "change in place": (SORT_IN_PLACE, "    items.sort()\n", ["    return sorted(items)\n", "    items = sorted(items)\n"]),
    "class of the candidate": (PAIR, PAIR_CODE, [PAIR_CODE.replace("+ 1", "+ 2"), PAIR_CODE.replace("Pair(", "Pear(")]),
    "set-up with the candidate's class": (TREE, TREE_CODE, [TREE_CODE.replace("1 +", "2 +"), "def depth(node): return 3"]),
    "function named like a builtin": (
        mbpp("assert sum(10,15) == 6", "assert sum(100,150) == 93"),
        "def sum(a,b):\n s = 0\n for i in range(1, a + 1):\n  if a % i == b % i == 0: s += i\n return s",
        ["def total(a, b): return 6", "def sum(a, b): return 6"],
    ),
    "module that no one imports": (
        mbpp("assert math.isclose(area(2), 12.566, rel_tol=0.001)", "assert math.isclose(area(1), 3.1416, rel_tol=0.001)"),
        "def area(r):\n    return 3.14159 * r * r",
        ["def area(r): return 3 * r * r", "class math:\n    isclose = lambda *a, **k: True\ndef area(r): return 0"],
    ),
    "imports of the row": (
        mbpp("assert sqrt(root(16)) == 2.0", test_imports=["from math import sqrt"]),
        "def root(x): return x ** 0.5", ["def root(x): return x", "def sqrt(x): return 2.0\ndef root(x): return 1"],
    ),
    "set in the assert": (
        mbpp("assert set(similar((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))"),
        "def similar(a, b): return tuple(set(a) & set(b))", ["def similar(a, b): return a"],
    ),
    "type as an argument": (
        mbpp("assert remove_datatype((4, 5, 4, 7.7, 1.2), int) == [7.7, 1.2]", "assert remove_datatype((7, 8, 'S'), str) == [7, 8]"),
        "def remove_datatype(items, kind): return [i for i in items if not isinstance(i, kind)]",
        ["def remove_datatype(items, kind): return list(items)"],
    ),
    "Counter for a dict": (
        mbpp("assert freq([10,10,20]) == ({10: 2, 20: 1})"),
        "import collections\ndef freq(items): return collections.Counter(items)",
        ["def freq(items): return {i: 1 for i in items}"],
    ),
    "iterator": (
        mbpp("assert list(evens([1, 2, 4])) == [2, 4]"),
        "def evens(items): return (i for i in items if i % 2 == 0)", ["def evens(items): return iter(items)"],
    ),
    "match object as truth": (
        mbpp("assert matches('abb')", "assert not matches('ba')"),
        "import re\ndef matches(s): return re.search('^ab+', s)", ["def matches(s): return 1"],
    ),
    "objects of the candidate's that are compared and added": (
        mbpp("assert V(1) + V(2) == V(3)", "assert V(1) != V(2) and V(1) < V(2)", "assert [V(1)] == [V(1)]"),
        ("from dataclasses import dataclass\n@dataclass(order=True)\nclass V:\n    x: int\n"
        "    def __add__(self, other): return V(self.x + other.x)"),
        ["class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, other): return V(self.x)"],
    ),
    "object that takes items, and one for a with": (
        mbpp("t = Table()\nt['a'] = 1\nassert t['a'] == 1\ndel t['a']\nassert len(t) == 0",
             "with opened() as value:\n    assert value == 7"),
        ("import contextlib\nclass Table:\n    def __init__(self): self.rows = {}\n"
        "    def __setitem__(self, key, value): self.rows[key] = value\n"
        "    def __getitem__(self, key): return self.rows[key]\n"
        "    def __delitem__(self, key): del self.rows[key]\n    def __len__(self): return len(self.rows)\n"
        "@contextlib.contextmanager\ndef opened(): yield 7"),
        ["class Table: pass\ndef opened(): return 7"],
    ),
    "special values": (
        mbpp("assert same(float('inf'), 2**100, 1j, b'x', None, {1: (2, {3})}, frozenset([1])) == "
             "(float('inf'), 2**100, 1j, b'x', None, {1: (2, {3})}, frozenset([1]))",
             "assert same(a='\\ud800', b=float('nan'))['b'] != 0"),
        "def same(*args, **kwargs): return args or kwargs", ["def same(*args, **kwargs): return list(args)"],
    ),
    "arguments named as the protocol's own": (
        mbpp("assert f(target=1, self=2, verb=3, number=4, arguments=5, keywords=6, name=7) == 28"),
        "def f(self, **named): return self + sum(named.values())",
        ["def f(**named): return len(named)"],
    ),
    "types of the standard library": (
        mbpp("from fractions import Fraction\nfrom datetime import date, timedelta\nfrom collections import deque",
             "assert next_one(Fraction(1, 3), 1) == Fraction(4, 3)",
             "assert next_one(date(2024, 2, 28), timedelta(days=1)) == date(2024, 2, 29)",
             "assert next_one(deque([1]), deque([2])) == deque([1, 2])"),
        "def next_one(a, b): return a + b", ["def next_one(a, b): return a"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_solution_passes_and_its_mutants_do_not(verifier, name):
    problem, solution, mutants = CASES[name]
    check_problem(problem)
    right = verifier.verify(problem, solution)
    assert (right.reward, right.score, right.status) == (1.0, 1.0, "ok"), job_of(problem, solution).program
    for mutant in mutants:
        wrong = verifier.verify(problem, mutant)
        assert (wrong.reward, wrong.score, wrong.status) == (0.0, 0.0, "ok"), mutant
        assert wrong.answer != right.answer


FULL = 'def has_close(numbers, threshold):\n    """ Mine. """\n' + CLOSE_BODY
ANSWERS = {
    "body": CLOSE_BODY,
    "body after blank lines": "\n\n" + CLOSE_BODY,
    "body, then the fence that the prompt opened": CLOSE_BODY + "```\nThis compares all pairs.",
    "body, then more functions, as the official harness runs them": CLOSE_BODY
    + "\n\ndef other():\n    pass\n",
    "body, then a main guard": CLOSE_BODY + "\n\nif __name__ == '__main__':\n    1 / 0\n",
    "whole function": FULL,
    "whole function that needs the prompt's imports": FULL.replace("numbers,", "numbers: List[float],"),
    "fenced function": f"Compare all pairs:\n\n```python\n{FULL}```\nDone.",
    "fenced body": f"```python\n{CLOSE_BODY}```",
    "second block, the first is an example": f"```\n>>> has_close([], 1)\n```\n```python\n{FULL}```",
    "first of two definitions": f"```python\n{FULL}```\nor\n```python\ndef has_close(a, b): return None\n```",
    "fence that is not closed": f"```py\n{FULL}",
    "indented fence": "1. So:\n" + textwrap.indent(f"```python\n{FULL}```\n", "   "),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_human_eval_answers_are_read_as_they_are_written(verifier, name):
    assert verifier.verify(CLOSE, ANSWERS[name]).reward == 1.0


@pytest.mark.parametrize(
    "answer",
    ["def double(x): return 2 * x", "[BEGIN]\ndef double(x): return 2 * x\n[DONE]\nmore",
     "def double(x): return 2 * x\n[DONE]", "Here:\n```python\ndef double(x):\n    return 2 * x\n```\nUse it."],
)  # fmt: skip
def test_mbpp_answers_are_read_as_they_are_written(verifier, answer):
    assert verifier.verify(mbpp("assert double(2) == 4"), answer).reward == 1.0


def test_all_of_a_completion_runs_as_in_the_official_harness(verifier):
    assert verifier.verify(CLOSE, CLOSE_BODY + "\nhas_close(1, 2, 3)\n").reward == 0.0
    assert verifier.verify(CLOSE, CLOSE_BODY + "\nprint(has_close([1.0], 0.1))\n").reward == 1.0


def test_a_program_that_does_not_parse_is_wrong_format(verifier):
    for completion in (CLOSE_BODY + "\ndef unfinished(", "I do not know.", "    return ((\n"):
        verdict = verifier.verify(CLOSE, completion)
        assert (verdict.status, verdict.reward, verdict.score, verdict.answer) == (
            "wrong_format",
            0.0,
            0.0,
            None,
        )


def test_challenge_tests_count_too(verifier):
    problem = mbpp("assert double(2) == 4", challenge_test_list=["assert double(3) == 6"])
    assert verifier.verify(problem, "def double(x): return 4").reward == 0.0
    assert verifier.verify(problem, "def double(x): return 2 * x").reward == 1.0


def test_programs_vote_together_whatever_their_layout_comments_and_docstrings(verifier):
    problem = mbpp("assert f(1) == 2")
    answers = [
        verifier.verify(problem, code).answer
        for code in (
            "def f(x):\n    return x+1",
            '"""Adds."""\ndef f( x ):  # one\n\n    "Adds one."\n    return (x + 1)\n',
            "def f(x):\n    return 1+x",
        )
    ]
    assert answers[0] is not None
    assert answers[0] == answers[1] != answers[2]


def test_a_program_with_a_constant_of_very_many_digits_is_judged_and_does_not_vote(verifier):
    verdict = verifier.verify(mbpp("assert f(1) == 2"), f"MASK = 0x{'f' * 5000}\ndef f(x): return x + 1")
    assert (verdict.reward, verdict.answer) == (1.0, None)


def test_partial_scores_are_fractions_of_the_tests_and_rewards_are_not():
    problem = mbpp(*(f"assert f({i}) == {i * i}" for i in (0, 1, 2, 3)))
    verifier = make_verifier(partial=True)
    try:
        for code, score in (("x * x", 1.0), ("x", 0.5), ("5", 0.0), ("[0, 1, 4][x]", 0.75)):
            verdict = verifier.verify(problem, f"def f(x): return {code}")
            assert (verdict.score, verdict.reward) == (score, float(score == 1.0))
        gone = verifier.verify(problem, "import os\ndef f(x): return x * x if x < 2 else os._exit(0)")
        assert (gone.score, gone.reward) == (0.5, 0.0)
    finally:
        verifier.close()


def test_what_is_not_done_in_time_is_a_timeout_and_the_verifier_goes_on():
    verifier = make_verifier(timeout_s=0.6)
    try:
        verdict = verifier.verify(CLOSE, "    while True: pass\n")
        assert (verdict.status, verdict.reward, verdict.score) == ("timeout", 0.0, -math.inf)
        assert verifier.verify(mbpp("assert f(1) == 1"), "def f(x): return x").reward == 1.0
    finally:
        verifier.close()


def test_a_fault_of_the_problem_is_raised_not_scored(verifier):
    with pytest.raises(UnsupportedTestsError, match="a TextIOWrapper, which is no plain data"):
        verifier.verify(mbpp("assert read(open('/dev/null')) == ''"), "def read(file): return file.read()")


def test_a_module_that_the_tests_miss_is_a_fault_of_the_problem_and_one_that_the_candidate_misses_its_own(
    verifier,
):
    needs_numpy = "def f(x):\n    import numpy\n    return x"
    assert verifier.verify(mbpp("assert f(1) == 1"), needs_numpy).reward == 0.0
    with pytest.raises(UnsupportedTestsError, match="No module named 'numpy'"):
        verifier.verify(mbpp("import numpy\nassert f(1) == 1"), "def f(x): return x")


def test_a_problem_that_cannot_be_judged_is_refused_in_one_line():
    for problem, message in (
        (mbpp(), r"problem '1': truth 'test_list' is \[\], verifier 'python_tests' needs a list"),
        (mbpp("assert ("), "truth 'test_list' .* needs Python that parses"),
        (
            mbpp("assert f()", test_imports=["import numpy as np"]),
            "truth 'test_imports' .* not the module numpy",
        ),
        (mbpp("assert f()", test_imports="import math"), "truth 'test_imports' is 'import math'"),
        (mbpp("assert f()", test_setup_code=["x = 1"]), "truth 'test_setup_code' .* needs a text"),
        (human_eval("def f(x):\n", "f", "def test(f): pass"), r"truth 'test' .* defines check\(candidate\)"),
        (human_eval("def f(x):\n", "f(x)", "def check(f): pass"), "truth 'entry_point' is 'f\\(x\\)'"),
        (human_eval("def f(x", "f", "def check(f): pass"), "truth 'prompt' .* needs Python that parses"),
        (Problem(id="q", prompt="", truth={"answer": 1}), "problem 'q': truth 'test_list' is None"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            check_problem(problem)
        assert "\n" not in str(caught.value)


def test_a_prompt_without_a_docstring_is_judged(verifier):
    problem = human_eval(
        "def double(x):\n", "double", "def check(candidate):\n    assert candidate(2) == 4\n"
    )
    check_problem(problem)
    assert verifier.verify(problem, "    return 2 * x\n").reward == 1.0
    assert verifier.verify(problem, "```python\ndef double(x):\n    return 2 * x\n```").reward == 1.0
    assert verifier.verify(problem, "    return x\n").reward == 0.0


def test_a_candidate_that_is_too_slow_costs_its_process_nothing() -> None:
    make_verifier().close()  # skips where there is no sandbox
    problem = mbpp("assert double(2) == 4", "assert double(0) == 0")
    slow = "def double(x):\n    while True: pass"
    right, wrong = "def double(x):\n    return 2 * x", "def double(x):\n    return x + 2"
    config = VerifierConfig(reward="python_tests", timeout_s=0.6)
    with VerifierProcess(config, "python_tests") as process:
        verdicts = process.judge(problem, [right, slow, wrong, "def"])
        assert (process.num_restarts, process.last_error) == (0, "")
    assert [(verdict.status, verdict.reward) for verdict in verdicts] == [
        ("ok", 1.0),
        ("timeout", 0.0),
        ("ok", 0.0),
        ("wrong_format", 0.0),
    ]
