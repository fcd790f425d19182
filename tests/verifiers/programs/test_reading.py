"""Which program a completion is, however it is fenced, split or surrounded."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest

from tests.shared.programs import cases, human_eval, make_verifier, mbpp
from verifiers.programs.python_tests import PythonTests
from verifiers.sandbox import blocks
from verifiers.sandbox.reading import read_program

AREA = "def area(a, b):\n    return a * b\n"
SUM = "import math\n\ndef helper(x):\n    return math.floor(x)\n\ndef f(x):\n    return helper(x) + 1\n"


@pytest.fixture(scope="module")
def verifier() -> Iterator[PythonTests]:
    verifier = make_verifier()
    yield verifier
    verifier.close()


FENCED = {
    "plain": "```\n{code}```",
    "language": "```python\n{code}```",
    "py": "```py\n{code}```",
    "python3": "```python3\n{code}```",
    "capital": "```Python\n{code}```",
    "space before the language": "``` python\n{code}```",
    "attributes": '```{{.python .numberLines startFrom="1"}}\n{code}```',
    "title": '```python title="area.py" hl_lines="1"\n{code}```',
    "four backticks": "````python\n{code}````",
    "four backticks around three": "````markdown\n```python\n{code}```\n````",
    "tildes": "~~~python\n{code}~~~",
    "more at the end": "```python\n{code}`````",
    "spaces after the closing fence": "```python\n{code}```   \nDone.",
    "glued closing fence": "```python\n{bare}```",
    "glued opening fence": "Here you are: ```python\n{code}```",
    "only a closing fence": "{code}```\n",
    "only a closing fence and prose": "{code}```\n\nThis multiplies both sides. Isn't it easy?\n",
    "prose before only a closing fence": "The area is a product:\n\n{code}```\n",
    "only an opening fence": "Sure!\n```python\n{code}",
    "no fence, prose before": "Here is the function you asked for:\n\n{code}",
    "no fence, prose after": "{code}\nThis multiplies both sides. Note: it isn't slow.\nDone\n",
    "no fence, prose on both sides": "Sure, here it is.\n{code}\nExample: area(2, 3) is 6.\n",
    "in a list": "1. Multiply:\n\n   ```python\n{listed}   ```\n\n2. Done.",
    "in a list with a tab": "- So:\n\n\t```python\n{tabbed}\t```\n",
    "carriage returns": "```python\r\n{code}```\r\n",
    "example first": "```\n>>> area(2, 3)\n6\n```\n```python\n{code}```",
    "shell first": "```bash\npip install area\n```\n```python\n{code}```\n```bash\npython area.py\n```",
    "output after": "```python\n{code}```\nprints\n```\n6\n```",
    "usage after": "```python\n{code}```\n```python\nprint(area(1))\n```",
    "thinking first": "<think>\n```python\ndef area(a, b): return a + b\n```\n</think>\n```python\n{code}```",
    "broken first": "```python\ndef area(a, b:\n    return\n```\nOops:\n```python\n{code}```",
    "a fence in a docstring": '```python\ndef area(a, b):\n    """\n    ```\n    area(1, 2)\n    ```\n    """\n    return a * b\n```',
    "a fence in a flush docstring": '```python\ndef area(a, b):\n    """\n    Use:\n    ~~~\n    """\n    return a * b\n```',
    "[PYTHON]": "[PYTHON]\n{code}[/PYTHON]\nThis is it.",
    "a leading space": " {code}",
    "a title": "# Solution\n\n{code}",
    "a table of contents": "## Idea\n* multiply\n\n## Code\n```python\n{code}```\n## Complexity\nO(1)",
}


@pytest.mark.parametrize("name", FENCED)
def test_every_usual_fence_is_read(verifier, name):
    listed, tabbed = textwrap.indent(AREA, "   "), textwrap.indent(AREA, "\t")
    answer = FENCED[name].format(code=AREA, bare=AREA.rstrip(), listed=listed, tabbed=tabbed)
    verdict = verifier.verify(mbpp("assert area(3, 4) == 12"), answer)
    assert (verdict.reward, verdict.status) == (1.0, "ok")


@pytest.mark.parametrize(
    "answer",
    ["", "I do not know.", "```python\n```", "area", "def area(a, b)", "```python\ndef area(a, b:\n```", AREA + "\ndef more(",
     "The function area multiplies.\n```\n12\n```", "import this is not code", "x = y is what we want"],
)  # fmt: skip
def test_what_holds_no_program_gets_nothing(verifier, answer):
    assert verifier.verify(mbpp("assert area(3, 4) == 12"), answer).reward == 0.0


BLOCKS = {
    "the class that is not in the first block": (
        "s = Stack()\ns.push(1)\nassert s.pop() == 1",
        ["push", "class Stack:\n    def __init__(self): self.a = []\n    def push(self, x): self.a.append(x)\n    def pop(self): return self.a.pop()"],
    ),
    "a helper of an earlier block": ("assert f(2.5) == 3", ["import math", "def helper(x):\n    return math.floor(x)", "def f(x):\n    return helper(x) + 1"]),
    "a helper of a later block": ("assert f(2.5) == 3", ["def f(x):\n    return helper(x) + 1", "import math\ndef helper(x):\n    return math.floor(x)"]),
    "a constant of an earlier block": ("assert f() == 7", ["LIMIT = 3 + 4", "def f():\n    return LIMIT"]),
    "an import with another name": ("assert f(4) == 2", ["from math import sqrt as root", "def f(x):\n    return root(x)"]),
    "an import of everything": ("assert f(4) == 2", ["from math import *", "def f(x):\n    return sqrt(x)"]),
    "a base class of an earlier block": (
        "assert B().x() == 1", ["class A:\n    def x(self): return 1", "class B(A):\n    pass"]),
    "two functions in two blocks": ("assert dec(enc(5)) == 5", ["def enc(x):\n    return x + 1", "def dec(x):\n    return x - 1"]),
    "a decorator of an earlier block": (
        "assert f(1) == 2", ["import functools\ndef twice(g):\n    @functools.wraps(g)\n    def h(x): return 2 * g(x)\n    return h", "@twice\ndef f(x):\n    return x"]),
    "a lambda": ("assert f(1) == 2", ["f(1)", "f = lambda x: x + 1"]),
    "a first attempt with the same helper": (
        "assert f(1) == 3", ["def helper(x):\n    return x + 2\nhelper(1 / 0)", "def f(x):\n    return helper(x)"]),
    "a usage that would fail": ("assert f(1) == 2", ["result = f(1)\nassert result == 5", "def f(x):\n    result = x + 1\n    return result"]),
    "from __future__ in a later part": ("assert f(1) == 2", ["import math", "from __future__ import annotations\ndef f(x: math.X):\n    return x + 1"]),
    "a block that defines more of what is tested": ("assert g(f(1)) == 4", ["def f(x): return 0", "def f(x): return x + 1\ndef g(x): return 2 * x"]),
    "a definition under an if": ("assert f(1) == 1", ["if True:\n    def f(x): return x"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_the_block_is_chosen_by_what_the_tests_call_with_what_it_needs_of_the_others(verifier, name):
    test, codes = BLOCKS[name]
    answer = "\n\nand\n\n".join(f"```python\n{code}\n```" for code in codes)
    verdict = verifier.verify(mbpp(test), answer)
    assert (verdict.reward, verdict.status) == (1.0, "ok")


def test_a_block_that_needs_nothing_is_taken_alone():
    blocks.forget_compiled()
    text = f"```python\nprint(1 / 0)\n```\n```python\n{SUM}```\n```python\nx = 1 / 0\n```"
    assert read_program(text, {"kind": "whole", "wanted": ["f"]}) == SUM


def test_the_body_of_a_function_may_have_lost_its_indentation(verifier):
    problem = human_eval(
        "def f(x):\n    ''' Adds. '''\n", "f", "def check(c):\n    assert c(1) == 2 and c(-1) == 0\n"
    )
    for answer in ("    y = x\n    return y + 1\n", "y = x\n    return y + 1\n", "y = x\nreturn y + 1\n",
                   "```python\ny = x\nreturn y + 1\n```", "```\n    y = x\n    return y + 1\n```", " def f(x):\n     return x + 1\n"):  # fmt: skip
        assert verifier.verify(problem, answer).reward == 1.0, answer


def test_what_follows_a_body_is_no_prose(verifier):
    problem = human_eval("def f(x):\n    ''' Adds. '''\n", "f", "def check(c):\n    assert c(1) == 2\n")
    for more in ("def g(", "This adds one.", "def f(x):\n    return x + 1\n\ndef g("):
        verdict = verifier.verify(problem, f"    return x + 1\n\n{more}")
        assert (verdict.status, verdict.reward) == ("wrong_format", 0.0)


LEETCODE = human_eval(
    "class Solution:\n    def twice(self, n: int) -> int:\n        ''' Twice n. '''\n",
    "Solution().twice", "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(n=3) == 6\n",
)  # fmt: skip
PLAIN = human_eval("def twice(n):\n    ''' Twice n. '''\n", "twice", "def check(c):\n    assert c(2) == 4\n")


@pytest.mark.parametrize("problem", [LEETCODE, PLAIN], ids=["class", "function"])
def test_a_method_of_class_solution_and_a_function_stand_for_each_other(verifier, problem):
    method, function = (
        "class Solution:\n    def twice(self, n):\n        return 2 * n\n",
        "def twice(n):\n    return 2 * n\n",
    )
    for code in (method, function):
        assert verifier.verify(problem, f"```python\n{code}```").reward == 1.0
        assert verifier.verify(problem, code).reward == 1.0
        assert verifier.verify(problem, code.replace("2 *", "3 *")).reward == 0.0
    assert verifier.verify(LEETCODE, "        return 2 * n\n").reward == 1.0


def test_annotations_are_evaluated_as_in_the_official_harness(verifier):
    checked = (
        "def chk(f):\n    def g(*a):\n        for x, t in zip(a, f.__annotations__.values()):\n"
        "            if not isinstance(x, t): raise TypeError\n        return f(*a)\n    return g\n"
        "@chk\ndef area(a: int, b: int):\n    return a * b\n"
    )
    problem = mbpp("assert area(3, 4) == 12")
    assert verifier.verify(problem, checked).reward == 1.0
    assert verifier.verify(problem, checked.replace("a: int", "a: str")).reward == 0.0
    for missing in (
        "def area(a: List[int], b): return a * b",
        "def area(a, b) -> Any: return a * b",
        "x: Foo = 1\n" + AREA,
    ):
        assert verifier.verify(problem, missing).reward == 0.0
        assert verifier.verify(problem, f"from __future__ import annotations\n{missing}").reward == 1.0
    assert verifier.verify(mbpp("x: Foo = 1\nassert area(3, 4) == 12"), AREA).reward == 0.0


SCRIPTS = {
    "bare": "n = int(input())\nprint(2 * n)",
    "fenced": "Read and print:\n```python\nn = int(input())\nprint(2 * n)\n```",
    "only a closing fence": "n = int(input())\nprint(2 * n)\n```\nDone.",
    "prose on both sides": "Here is the program:\nn = int(input())\nprint(2 * n)\nIt runs in O(1), that's all.",
    "the last that reads": "```python\nprint(0 * int(input()))\n```\nFixed:\n```python\nprint(2 * int(input()))\n```\n```\n4\n```",
    "a helper before": "```python\ndef twice(n):\n    return 2 * n\n```\n```python\nprint(twice(int(input())))\n```",
    "a shell afterwards": "```python\nprint(2 * int(input()))\n```\n```bash\npython main.py < input.txt\n```",
    "in a list": "1. So:\n   ```python\n   print(2 * int(input()))\n   ```",
    "main guard": "```python\ndef main():\n    print(2 * int(input()))\n\nif __name__ == '__main__':\n    main()\n```",
    "comment lines": "# Twice\nimport sys\nprint(2 * int(sys.stdin.readline()))",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_programs_that_read_standard_input_are_found(verifier, name):
    assert verifier.verify(cases(["2\n", "5\n"], ["4\n", "10\n"]), SCRIPTS[name]).reward == 1.0


@pytest.mark.parametrize(
    "text",
    ["(" * 100_000, "```python\n" + "[" * 50_000, "-" * 100_000 + "1", "`" * 50_000, "~~~\n" * 20_000, "def f(\n" * 3000,
     "```python\n" * 5000, "@a\n" * 5000, "x = (\n" * 3000, "class A:\n" * 3000, "f" + "(f" * 3000, "'''\n" * 4001,
     "lambda: " * 5000, "```\n" + "x\n```\n" * 4000, "a = b" * 4000, "import " + "a." * 4000 + "a", "\0" * 100, "\ud800"],
)  # fmt: skip
def test_no_text_costs_the_verifier_more_than_a_candidates_time(text):
    verifier = make_verifier(timeout_s=5.0)
    try:
        for problem in (mbpp("assert f(1) == 2"), human_eval("def f(x):\n    ''' x '''\n", "f", "def check(c):\n    assert c(1) == 2\n"),
                        cases(["1"], ["2"])):  # fmt: skip
            assert verifier.verify(problem, text).status in ("wrong_format", "ok", "timeout")
            assert verifier.verify(mbpp("assert area(3, 4) == 12"), AREA).reward == 1.0
    finally:
        verifier.close()
