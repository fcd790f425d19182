"""What tests hand to a candidate stays theirs: it does what it does anywhere, and leads nowhere.

How an attack is written: `test_verdicts.py`.
"""

from __future__ import annotations

import pytest

from tests.shared.sandbox_attacks import GOOD, SEND, WALL_S
from verifiers.sandbox.sandbox import Job

HONEST = {
    "a lambda": ("def apply(f, x): return f(x)", "assert apply(lambda x: x + 1, 1) == 2"),
    "a builtin function": ("def apply(f, x): return f(x)", "assert apply(len, [1, 2]) == 2 and apply(sorted, 'ba') == ['a', 'b']"),
    "a method of a builtin type": ("def apply(f, x): return f(x)", "assert apply(str.upper, 'a') == 'A'"),
    "a method of a list, a dict, a set or a text": (
        "def each(x, f):\n    return [f(v) for v in x]",
        ("out, seen = [], set()\neach('ab', out.append)\neach('aab', seen.add)\nassert out == ['a', 'b'] and seen == {'a', 'b'}\n"
        "import re\nassert each(['a'], {'a': 2}.get) == [2] and each(['ab'], ', '.join) == ['a, b'] and each(['xaa'], re.compile('a').findall) == [['a', 'a']]"),
    ),
    "a library's function": ("def apply(f, x): return f(x)", "import math, operator\nassert apply(math.sqrt, 4) == 2 and apply(operator.neg, 2) == -2"),
    "a key": ("def order(x, key): return sorted(x, key=key)", "assert order(['bb', 'a'], key=len) == ['a', 'bb'] == order(['a', 'bb'], lambda s: len(s))"),
    "a generator": ("def total(x): return sum(x)", "assert total(i for i in range(4)) == 6 and total(iter([1, 2])) == 3 and total(map(int, '12')) == 3"),
    "an endless generator": ("def first(x): return next(x), next(x)", "import itertools\nassert first(itertools.count(5)) == (5, 6)"),
    "an object of the tests' class": (
        "def f(a):\n    a.y = a.x + 1\n    return a.x, a.m(2), a == a, len(a), a[7]",
        ("class A:\n    def __init__(self, x): self.x = x\n    def m(self, k): return self.x * k\n    def __len__(self): return 4\n"
        "    def __getitem__(self, i): return i\na = A(3)\nassert f(a) == (3, 6, True, 4, 7) and a.y == 4"),
    ),
    "a class of the tests'": ("def f(A): return A(3).x", "class A:\n    def __init__(self, x): self.x = x\nassert f(A) == 3"),
    "an object that comes back": ("def f(a): return [a]", "class A: pass\na = A()\nassert f(a)[0] is a"),
    "a function that comes back": ("def f(g): return g", "def g(): pass\nassert f(g) is g"),
    "a function that is wrapped": (
        "def memo(f):\n    seen = {}\n    def inner(x):\n        if x not in seen: seen[x] = f(x)\n        return seen[x]\n    return inner",
        "calls = []\ndef g(x):\n    calls.append(x)\n    return 2 * x\nm = memo(g)\nassert m(2) == 4 == m(2) and calls == [2]",
    ),
    "a function that raises": (
        "def f(g):\n    try: g()\n    except KeyError as e: return str(e)", "def g(): raise KeyError('k')\nassert f(g)"),
    "a file in memory": (
        "def f(file, out):\n    for line in file: out.write(line.upper())\n    return file.read()",
        "import io\nout = io.StringIO()\nassert f(io.StringIO('a\\nb'), out) == '' and out.getvalue() == 'A\\nB'"),
    "the arguments of what a function raises": (
        "def f(g):\n    try: g()\n    except KeyError as e: return e.args", "def g(): raise KeyError('k', 2)\nassert f(g) == ('k', 2)"),
    "an exception of the tests' class that comes back": (
        "def f(g): return g()", "class E(Exception): pass\ndef g(): raise E('x')\ntry:\n    f(g)\n    assert False\nexcept E as e:\n    assert str(e) == 'x'"),
    "a function that calls the candidate": (
        "def outer(g, n): return g(n) + 1\ndef inner(n): return 10 * n", "assert outer(lambda n: inner(n) + 2, 3) == 33"),
    "a function that takes the candidate's object": (
        ("class Acc:\n    def __init__(self): self.total = 0\n    def add(self, v): self.total += v\n"
        "def each(x, g):\n    for v in x: g(v)"),
        "s = Acc()\neach([1, 2], lambda v: s.add(v))\nassert s.total == 3",
    ),
    "a function with keywords": ("def f(g): return g(1, b=2)", "assert f(lambda a, b: (a, b)) == (1, 2)"),
    "a function that calls itself through the candidate": (
        "def fix(f):\n    def inner(n): return f(inner, n)\n    return inner",
        "fact = fix(lambda self, n: 1 if n < 2 else n * self(n - 1))\nassert fact(5) == 120",
    ),
    "threads of the tests": (
        "class Counter:\n    def __init__(self): self.n = 0\n    def add(self, g): self.n += g()",
        ("import threading\nc = Counter()\nts = [threading.Thread(target=lambda: [c.add(lambda: 1) for _ in range(20)]) for _ in range(4)]\n"
        "for t in ts: t.start()\nfor t in ts: t.join()\nassert c.n == 80")),
    "a partial": ("def f(g): return g(3)", "import functools\nassert f(functools.partial(lambda a, b: a - b, 10)) == 7"),
}  # fmt: skip


def test_no_partial_of_eval_runs_the_candidates_text_beside_the_tests(sandbox):
    program = "def f(g):\n    try: return g('49')\n    except Exception: return 'refused'"
    for function in ("eval", "exec", "open", "getattr", "__import__"):
        test = f"import functools\nassert f(1) == 'refused'\nassert f(functools.partial({function})) == 49"
        assert sandbox.run(Job(program=program, tests=(test,)), wall_s=WALL_S).kind == "failed"
    test = "import functools\nassert f(functools.partial(int, base=16)) == 73"
    assert sandbox.run(Job(program=program, tests=(test,)), wall_s=WALL_S).kind == "passed"


@pytest.mark.parametrize("name", HONEST)
def test_what_the_tests_give_works_as_anywhere(sandbox, name):
    program, test = HONEST[name]
    outcome = sandbox.run(Job(program=program, tests=(test,)), wall_s=WALL_S)
    assert outcome.kind == "passed", outcome


@pytest.mark.parametrize(
    "attempt",
    ["g.__globals__['f']", "g.__code__", "g.__class__.__subclasses__()", "g.__closure__", "g.__self__", "g.__wrapped__",
     "g.__dict__", "a._secret", "a.__dict__", "a.m.__func__", "a.m.__globals__", "it.gi_frame",
     "it.gi_code", "it.__class__", "A.__mro__[1]", "setattr(a, 'm', lambda: 49)", "setattr(A, 'm', 1)",
     "setattr(a, '__class__', 1)", "object.__getattribute__(g, '_ask_tests')('get', 0, ('__globals__',), {})",
     "object.__getattribute__(g, '_ask_tests')('eval', 0, ('1',), {})", "object.__getattribute__(g, '_ask_tests')('call', 99, (), {})",
     "object.__getattribute__(g, '_ask_tests')('call', -1, (), {})", "g.fget", "g()(1)"],
)  # fmt: skip
def test_nothing_that_the_tests_give_leads_into_their_process(attack, attempt):
    test = """
import functools, os
class A:
    _secret = 49
    def __init__(self): self.secret_module = os
    def m(self): return 1
def g(): return 49
a = A()
result = f(g, a, (i for i in [1]), A)
assert result != "refused", result
assert a.m() == 1 and A.m(a) == 1, "refused"
"""
    program = f"""
def f(g, a, it, A):
    try: {"value = " if "setattr" not in attempt else ""}{attempt}
    except Exception: return "refused"
    if {"setattr" in attempt!r} or {"__class__" in attempt!r}: return "refused"
    return "had it"
"""
    outcome = attack(program, test)
    assert outcome.kind == "failed" and "refused" in outcome.detail, outcome


@pytest.mark.parametrize(
    ("program", "test"),
    [("class L:\n    def sort(self, key=None): pass\n    __eq__ = lambda self, other: True\ndef f(): return L()",
      "r = f()\nr.sort(key=len)\nassert r == ['a']"),
     ("class L:\n    def sort(self, key=None): key.x\ndef f(): return L()", "r = f()\nr.sort(key=lambda x: x)\nassert r == []"),
     ("class L:\n    def extend(self, items): pass\n    def __len__(self): return 2\ndef f(): return L()",
      "r = f()\nr.extend(x for x in 'ab')\nassert len(r) == 2"),
     ("class L:\n    def update(self, other): raise SystemExit\ndef f(): return L()", "class A: pass\nr = f()\nr.update(A())\nassert r"),
     ("class L:\n    def write(self, file): return 1\ndef f(): return L()", "r = f()\nassert r.write(open('/dev/null')) == 2"),
     ("class L:\n    def join(self, thread): return 1\ndef f(): return L()",
      "import threading\nr = f()\nassert r.join(threading.Lock()) == 2"),
     ("def f():\n    def g(*a): return a\n    return g", "assert f()(__builtins__['open']('/dev/null')) == 3"),
     ("f = {}", "assert f.get(open('/dev/null'))"),
     ("def f(g):\n    e = ValueError('x')\n    e.__dict__['number in the tests'] = 0\n    raise e", "def g(): raise KeyError\nassert f(g) == 1"),
     ("def f(g):\n    try: g('x' * 50_000_000)\n    except Exception: return 1", "assert f(lambda x: x) == 1"),
     ("def f(g):\n    while True: g()", "f(lambda: 1 / 0)"),
     ("def f(g): return f(g) if g() else 0", "assert f(lambda: f(lambda: 1)) == 1"),
     ("def f(g):\n    import threading\n    t = threading.Thread(target=g)\n    t.start(); t.join()\n    return 1",
      "assert f(lambda: 1) == 2"),
     ("def f(g):\n    import os\n    if os.fork() == 0:\n        g(); os._exit(0)\n    os.wait()\n    return 1", "assert f(lambda: 1) == 2")],
)  # fmt: skip
def test_no_candidate_chooses_that_nobody_knows_by_what_it_is_handed(attack, program, test):
    assert attack(program, test).kind in ("failed", "too_large", "timeout")


def test_files_and_locks_that_every_candidate_is_handed_are_the_problems_fault(sandbox):
    with pytest.raises(Exception, match="which is no plain data"):
        sandbox.run(Job(program="def f(x): return 1", tests=("f(open('/dev/null'))",)), wall_s=WALL_S)
    assert sandbox.run(GOOD, wall_s=WALL_S).kind == "passed"


PRELUDE = """
import enum
from dataclasses import dataclass
@dataclass
class Point:
    x: int
    y: int = 0
    def norm(self): return abs(self.x) + abs(self.y)
class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next
class Slotted:
    __slots__ = ("x",)
    def __init__(self, x): self.x = x
@dataclass(frozen=True)
class Frozen:
    x: int
class Color(enum.Enum):
    RED = 1
    BLUE = 2
"""
INSTANCES = {
    "an instance": ("def f(p): return p.x + p.norm()", "assert f(Point(3, -1)) == 7"),
    "isinstance": ("def f(p): return isinstance(p, Point)", "assert f(Point(3))"),
    "an instance that is returned": ("def f(p): return Point(p.x + 1)", "assert f(Point(3)) == Point(4) and type(f(Point(1))) is Point"),
    "a list of instances": ("def f(ps): return [Point(p.y, p.x) for p in ps]", "assert f([Point(1, 2), Point(3, 4)]) == [Point(2, 1), Point(4, 3)]"),
    "a linked list": (
        "def f(n):\n    before = None\n    while n: before, n.next, n = n, before, n.next\n    return before",
        "r = f(Node(1, Node(2, Node(3))))\nassert (r.value, r.next.value, r.next.next.value, r.next.next.next) == (3, 2, 1, None)",
    ),
    "a change in place": ("def f(p): p.x = 9", "p = Point(1)\nq = [p]\nf(p)\nassert p.x == 9 and q[0].x == 9"),
    "a change in a part": ("def f(n): n.next.value = 9", "tail = Node(2)\nf(Node(1, tail))\nassert tail.value == 9"),
    "slots": ("def f(s): return Slotted(s.x + 1)", "assert f(Slotted(1)).x == 2"),
    "a frozen instance": ("def f(s): return Frozen(s.x + 1)", "assert f(Frozen(1)) == Frozen(2) and {Frozen(2): 1}[f(Frozen(1))] == 1"),
    "a member of an enumeration": ("def f(c): return Color.BLUE if c is Color.RED else Color.RED", "assert f(Color.RED) is Color.BLUE"),
}  # fmt: skip


@pytest.mark.parametrize("name", INSTANCES)
def test_instances_of_the_problems_own_classes_travel(sandbox, name):
    program, test = INSTANCES[name]
    outcome = sandbox.run(
        Job(program=PRELUDE + program, prelude=PRELUDE, tests=(test,), entry="f"), wall_s=WALL_S
    )
    assert outcome.kind == "passed", outcome


@pytest.mark.parametrize(
    ("program", "test"),
    [("Point.__eq__ = lambda self, other: True\ndef f(p): return Point(0)", "assert f(Point(3)) == Point(4)"),
     ("class Point:\n    __eq__ = lambda self, other: True\n    x = 4\ndef f(p): return Point()", "assert f(Point(3)) == Point(4)"),
     ("def f(p):\n    q = Point(1)\n    q.norm = lambda: 7\n    return q", "assert f(Point(3)).norm() == 7"),
     ("class Same:\n    __eq__ = __radd__ = __add__ = lambda self, other: True\ndef f(p): return Point(Same())", "assert f(Point(3)) == Point(4)"),
     ("def f(p): return Node(1)", "assert f(Point(3)) == Point(1)"),
     ("class Color: RED = 1\ndef f(c): return Color()", "assert f(Color.RED) is Color.BLUE")],
)  # fmt: skip
def test_a_class_of_the_problems_that_a_candidate_replaces_is_still_the_problems_in_the_tests(
    sandbox, program, test
):
    outcome = sandbox.run(
        Job(program=PRELUDE + program, prelude=PRELUDE, tests=(test,), entry="f"), wall_s=WALL_S
    )
    assert outcome.kind == "failed", outcome


@pytest.mark.parametrize(
    "reply",
    ['["ask"]', '["ask","call",0,[],{}]', '["ask","get",0,["__globals__"],{}]', '["ask","call",-1,[],{}]', '["ask",[],{},[],{}]',
     '["ask","call",0,[{"r":99}],{}]', '["ask","call",0,7,7]', '["ask","call",0,[{"g":["os","system"]}],{}]', '["ask","next",0,[],{}]',
     '["value",{"g":["builtins","eval"]},"",null]', '["value",{"g":5},"",null]', '["value",{"g":-1},"",null]', '["value",{"g":"x"},"",null]',
     '["value",{"o":["Point",{}]},"",null]', '["value",{"o":["Link",{"gone":""}]},"",null]', '["value",{"o":7},"",null]', '["value",{"m":["A","B"]},"",null]',
     '["value",{"N":["P",["__class__"],[1]]},"",null]', '["value",{"N":["P",["a","a"],[1,2]]},"",null]', '["value",{"N":["P;import os",["a"],[1]]},"",null]',
     '["value",{"N":["P",["a"],[]]},"",null]', '["value",{"N":[["P"],[["a"]],[1]]},"",null]', '["value",{"x":["slice",{"r":1},2,3]},"",null]',
     '["raise",["ValueError",[],[],{}],"",null]', '["raise",["ValueError",["A"],[],{"__class__":1,"args":2}],"",null]', '["raise",["ValueError",[7],[],{}],"",null]',
     '["raise",["AssertionError",["x\\\\u0000y"],[],{}],"",null]', '["raise",["ValueError",["A"],[],{"number in the tests":0}],"",null]',
     '["raise",["ValueError",["A"],[],{"number in the tests":-1}],"",null]', '["raise",["CandidateGoneError",[],[],{}],"",null]',
     '["raise",["__build_class__",[],[],{}],"",null]', '["raise",["ExceptionGroup",[],["x",[]],{}],"",null]', '["raise",["SystemExit",[],[],{}],"",null]',
     '["raise",["OSError",[],[{"r":1}],{}],"",null]', '["raise",{},"",null]', '["too large","",7,null]', '["too large"]', '["stop"]', 'null', '"ask"', '{"ask":1}', '[[]]', '[null,1,2,3]'],
)  # fmt: skip
def test_no_message_of_a_candidate_is_a_pass_or_a_fault_of_anybody_else(attack, reply):
    program = f"{SEND}def f(g): send({reply!r}.encode())\ndef h(): send({reply!r}.encode())"
    outcome = attack(program, "assert f(lambda *a: 1) == 49 and h() == 49", wall_s=2.0)
    assert outcome.kind in ("failed", "too_large", "timeout"), outcome
    assert attack(program, "assert h() == 49", wall_s=2.0).kind in ("failed", "too_large", "timeout")
