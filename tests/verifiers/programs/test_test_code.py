"""All that a data set's tests assert is run, or the row is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.shared.programs import human_eval, make_verifier, mbpp
from tests.shared.refusals import refusal
from verifiers.programs.python_tests import PythonTests, check_problem, job_of

RIGHT, WRONG = "def f(x):\n    if x < 0: raise ValueError\n    return x + 1", "def f(x): return 0"


@pytest.fixture(scope="module")
def verifier() -> Iterator[PythonTests]:
    verifier = make_verifier()
    yield verifier
    verifier.close()


UNITTEST = (
    "import unittest\nclass Checks(unittest.TestCase):\n    def setUp(self): self.x = 1\n"
    "    def test_sum(self): self.assertEqual(f(self.x), 2)\n"
    "    def test_error(self):\n        with self.assertRaises(ValueError): f(-1)\n"
)
RUN = {
    "a function": ["def test_a():\n    assert f(1) == 2"],
    "a function after an assertion that holds": ["assert f(-0) is not None", "def test_a():\n    assert f(1) == 2"],
    "the second of two functions": ["def test_a():\n    f(0)\ndef test_b():\n    assert f(1) == 2"],
    "a function with a default": ["def test_a(x=1):\n    assert f(x) == 2"],
    "a function that calls a helper": ["def same(x, y):\n    assert f(x) == y\ndef test_a():\n    same(1, 2)"],
    "a function that is called": ["def test_a():\n    assert f(1) == 2\ntest_a()"],
    "a function that a loop calls": ["def ok(x):\n    assert f(x) == x + 1\nfor x in range(3): ok(x)"],
    "a main part": ["def all_of_it():\n    assert f(1) == 2\nif __name__ == '__main__':\n    all_of_it()"],
    "a main part with assertions": ["if __name__ == \"__main__\":\n    assert f(1) == 2"],
    "unittest": [UNITTEST],
    "unittest with its main": [UNITTEST + "if __name__ == '__main__':\n    unittest.main()"],
    "unittest with a bare main": [UNITTEST + "unittest.main()"],
    "unittest under another name": [UNITTEST.replace("import unittest", "from unittest import TestCase").replace("unittest.TestCase", "TestCase")],
    "a class for pytest": ["class TestF:\n    def test_a(self):\n        assert f(1) == 2\n    def test_b(self): pass"],
    "a decorated function": ["import functools\ndef twice(g):\n    return lambda: (g(), g())\n@twice\ndef test_a():\n    assert f(1) == 2"],
}  # fmt: skip


@pytest.mark.parametrize("name", RUN)
def test_tests_that_nobody_calls_are_run(verifier, name):
    problem = mbpp(*RUN[name])
    check_problem(problem)
    assert verifier.verify(problem, RIGHT).reward == 1.0, job_of(problem, RIGHT).tests
    assert verifier.verify(problem, WRONG).reward == 0.0


def test_test_functions_of_the_set_up_are_run_too(verifier):
    problem = mbpp("assert f(0) is not None", test_setup_code="def test_a():\n    assert f(1) == 2")
    check_problem(problem)
    assert (verifier.verify(problem, RIGHT).reward, verifier.verify(problem, WRONG).reward) == (1.0, 0.0)


def test_a_test_function_is_run_once(verifier):
    problem = mbpp("calls = []\ndef test_a():\n    calls.append(f(1))\ntest_a()", "assert calls == [2]")
    assert verifier.verify(problem, RIGHT).reward == 1.0


@pytest.mark.parametrize(
    ("tests", "why"),
    [(["def test_a(x):\n    assert f(x) == 2"], r"test_a\(\) takes arguments that nothing gives it"),
     (["async def test_a():\n    assert f(1) == 2"], r"test_a\(\) is a generator or a coroutine"),
     (["def test_a():\n    assert f(1) == 2\n    yield"], r"test_a\(\) is a generator or a coroutine"),
     (["f(1)\ndef verify():\n    assert f(1) == 2"], r"verify\(\) asserts something and is called by nothing"),
     (["def test_a():\n    def inner():\n        assert f(1) == 2\n    f(1)"], r"inner\(\) asserts something"),
     (["class TestF:\n    def setup_method(self): self.x = 1\n    def test_a(self): assert f(self.x) == 2"], "is set up by pytest"),
     (["class TestF:\n    def test_a(self, tmp_path): assert f(1) == 2"], r"test_a\(\) takes arguments"),
     (["class Checks:\n    def verify(self): assert f(1) == 2\nf(1)"], r"verify\(\) asserts something"),
     (["import pytest\ndef test_a():\n    assert f(1) == 2"], "not the module pytest"),
     (["import math, numpy\nassert f(1) == 2"], "not the module numpy"),
     (["x = 1\nassert x == 1"], "tests that call something of the candidate's"),
     (["assert max(1, 2) == 2 if False else True"], None)],
)  # fmt: skip
def test_tests_that_would_pass_every_program_are_refused(tests, why):
    if why is None:
        check_problem(mbpp(*tests))  # of a function named like a builtin
        return
    with pytest.raises(ValueError, match=why):
        check_problem(mbpp(*tests))


@pytest.mark.parametrize(
    "test",
    ["def check(candidate):\n    pass", "def check(candidate):\n    assert True",
     "def check(candidate):\n    def test_a():\n        assert candidate(1) == 2", "def verify(candidate):\n    assert candidate(1) == 2",
     "def check(candidate):\n    assert candidate(1) == 2\ndef verify(candidate):\n    assert candidate(2) == 3"],
)  # fmt: skip
def test_a_check_that_checks_nothing_is_refused(test):
    message = refusal(lambda: check_problem(human_eval("def f(x):\n    ''' x '''\n", "f", test)))
    assert "truth 'test'" in message


def test_nested_tests_that_the_check_calls_are_run(verifier):
    problem = human_eval(
        "def f(x):\n    ''' x '''\n",
        "f",
        "def check(c):\n    def test_a():\n        assert c(1) == 2\n    test_a()\n",
    )
    check_problem(problem)
    assert verifier.verify(problem, "    return x + 1\n").reward == 1.0
    assert verifier.verify(problem, "    return x\n").reward == 0.0
