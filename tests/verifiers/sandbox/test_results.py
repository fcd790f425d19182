"""A result that tests look at piece by piece must be of one piece; objects of a candidate's own classes still work.

How an attack is written: `test_verdicts.py`.
"""

from __future__ import annotations

import pytest

from tests.shared.sandbox_attacks import SEND, WALL_S
from verifiers.sandbox.sandbox import Job

ANYTHING = """
class Anything:
    def __init__(self, items=(), size=None): self.items, self.size, self.turn = items, size, 0
    def __len__(self): return self.size
    def __iter__(self): return iter(self.items)
    def __getattr__(self, name): return lambda *arguments, **keywords: True
    def __contains__(self, item): return True
    __eq__ = __lt__ = __le__ = lambda self, other: True
"""

CHEATS = {
    "a length without items": ("Anything([], 5)", "len(r) == 5 and all(isinstance(x, int) for x in r)"),
    "a length alone": ("type('L', (), {'__len__': lambda self: 5})()", "len(r) == 5"),
    "a length and no numbers": ("Anything([], 3)", "len(r) == 3 and sum(r) == 0"),
    "a length that changes": ("Shrinks()", "len(r) == 3 and list(r) == []"),
    "items that change": ("Shrinks()", "list(r) == [1, 2, 3] and all(x > 5 for x in r)"),
    "items of two kinds": (
        "Counts(x)", "all(r[i] <= r[i + 1] for i in range(len(x) - 1)) and sorted(r) == sorted(x)"),
    "items without a length or an iterator": (
        "Turns(x)", "all(r[i] <= r[i + 1] for i in range(len(x) - 1)) and sorted(r) == sorted(x)"),
    "an iterator, then an index": (
        "Turns(x)", "sorted(r) == sorted(x) and all(r[i] <= r[i + 1] for i in range(len(x) - 1))"),
    "items without end": ("Endless(x)", "r[0] < r[1] < r[2] and sorted(r) == sorted(x)"),
    "an attribute of an attribute": ("type('A', (), {'x': Anything()})()", "r.x.isupper()"),
    "the answer of a closure": ("lambda: Anything()", "r().isdigit()"),
    "an item of an iterator": ("iter([Anything()])", "next(r).islower()"),
    "a result of a method of Solution": ("0", "Solution().f().isupper()"),
    "a file in place of a text": ("__import__('io').StringIO('a')", "r.isalpha()"),
    "an index beyond the items": ("Counts([])", "r[0] == 1 and r[5] == 2 and len(r) == 0"),
    "a length and an index": ("Numbers(3)", "len(r) == 3 and [r[0], r[1], r[2]] == [1, 2, 3] and list(r) == [3, 1, 2]"),
    "an answer to isupper": ("Anything()", "r.isupper()"),
    "an answer to startswith and endswith": ("Anything()", "r.startswith('a') and r.endswith('b')"),
    "an answer to isdigit in a loop": ("[Anything(), Anything()]", "all(part.isdigit() for part in r)"),
    "an answer to issubset": ("Anything()", "r.issubset({1, 2})"),
    "an answer to is_integer": ("Anything()", "r.is_integer()"),
    "an answer to split": ("Anything()", "r.split() and r.strip() and r.lower()"),
    "values that are not there": ("Mapped()", "len(r) == 2 and all(v == 9 for v in r.values())"),
    "items that are not there": ("Mapped()", "len(r) == 2 and not [k for k, v in r.items() if v != 9]"),
    "a key that is none of its keys": ("Keyed()", "len(r) == 1 and r['b'] == 7"),
    "a container of everything": ("Anything([], 0)", "5 in r"),
    "a text of another length": ("Text()", "str(r) == 'abc' and len(r) == 3"),
    "a number by float": ("Number()", "abs(float(r) - 49) < 1e-6"),
    "a number by int": ("Number()", "int(r) == 49"),
    "a number by isclose": ("Number()", "__import__('math').isclose(r, 49)"),
    "a number by index": ("Number()", "[0] * 3 == [0] * r"),
    "a number by round": ("Number()", "round(r, 1) == 49"),
    "a number by minus": ("Number()", "r - 49 == 0"),
    "a number by the reflected minus": ("Number()", "abs(49 - r) < 1e-6"),
    "a sort that does not sort": ("Anything([2, 1], 2)", "not r.sort() or list(r) == [1, 2]"),
    "an own class that extends list and lies": ("0", "Lies([1, 2]) == [1, 3]"),
    "an own class that extends int and lies": ("0", "LiesToo(1) == 2"),
    "a named tuple that lies": ("Pair(1, 2)", "r == (1, 3)"),
    "a context manager that hides a failure": ("0", "1\nwith Hides():\n    assert False"),
    "truth that changes": ("Shrinks()", "r and not r"),
    "another reading by __iter__ alone": (
        "Passes(x, sorted(x))", "sorted(r) == sorted(x) and (l := list(r)) and all(a <= b for a, b in zip(l, l[1:]))"),
    "another reading of an item": ("[Passes(x, [])]", "set(r[0]) == set(x) and sum(r[0]) == 0"),
    "another reading of a closure's": ("lambda: Passes(x, [])", "(q := r()) and 30 in q and list(q) == []"),
    "another reading after a part": ("Passes(x, [1])", "[v for v, _ in zip(r, 'a')] == [30] and list(r) == [1]"),
    "another reading backwards": ("Passes(x)", "sorted(r) == sorted(x) and list(reversed(r)) == [5, 6, 7]"),
    "an iterator that goes on after its end": ("Passing(x, sorted(x))", "list(r) == x and list(r) == sorted(x)"),
    "an iterator that begins anew with others": ("Begins(x, sorted(x))", "list(r) == x and list(r) == sorted(x)"),
    "an order that OrderedDict has": (
        "__import__('collections').OrderedDict(b=1, a=2)", "r == __import__('collections').OrderedDict(a=2, b=1)"),
    "a factory that answers": ("__import__('collections').defaultdict(Anything, a=1)", "r['b'].isupper()"),
    "a class with the function's name": ("x", "len(g(5)) == 5 and not list(g(5))"),
}  # fmt: skip
PROGRAM = (
    ANYTHING
    + """
class Shrinks:
    turn = 0
    def __len__(self): return 3 if self.next() % 2 else 0
    def __iter__(self): return iter([1, 2, 3] if self.next() % 2 else [])
    def __bool__(self): return self.next() % 2 == 1
    def next(self):
        self.turn += 1
        return self.turn
class Counts:
    def __init__(self, items): self.items, self.turn = items, 0
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, index):
        self.turn += 1
        return self.turn
class Turns:
    def __init__(self, items): self.items, self.turn = items, 0
    def __getitem__(self, index):
        self.turn += 1
        if index >= len(self.items): raise IndexError
        return self.items[index] if self.turn > 4 else self.turn
class Endless:
    def __init__(self, items): self.items = items
    def __getitem__(self, index): return index
class Solution:
    def f(self): return Anything()
class Numbers(Counts):
    def __init__(self, size): self.items, self.turn = [3, 1, 2], 0
class Mapped:
    def __len__(self): return 2
    def __iter__(self): return iter('ab')
    def keys(self): return ['a', 'b']
    def values(self): return []
    items = values
class Keyed(Mapped):
    def __len__(self): return 1
    def __iter__(self): return iter('a')
    def __getitem__(self, key): return 7
class Text:
    def __str__(self): return 'abc'
    def __len__(self): return 3
class Number:
    __float__ = lambda self: 49.0
    __int__ = __index__ = lambda self: 3
    __round__ = lambda self, digits=None: 49
    __sub__ = __rsub__ = __abs__ = __mul__ = __rmul__ = lambda self, other=0: 0
class Lies(list):
    __eq__ = __ne__ = lambda self, other: True
class LiesToo(int):
    __eq__ = lambda self, other: True
Pair = type("Pair", (__import__("collections").namedtuple("Pair", "a b"),), {"__eq__": lambda self, other: True})
class Passes:
    def __init__(self, *passes): self.passes = list(passes)
    def __reversed__(self): return iter([5, 6, 7])
    def __iter__(self): return iter(self.passes.pop(0) if len(self.passes) > 1 else self.passes[0])
class Passing:
    def __init__(self, *passes): self.all = [v for items in passes for v in (*items, None)]
    def __iter__(self): return self
    def __next__(self):
        v = self.all.pop(0) if self.all else None
        if v is None: raise StopIteration
        return v
class Begins(Passes):
    def __iter__(self):
        self.now = Passes.__iter__(self)
        return self
    def __next__(self): return next(self.now)
class Hides:
    def __enter__(self): pass
    def __exit__(self, *error): return True
class g:
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __iter__(self): return iter(())
"""
)


@pytest.mark.parametrize("name", CHEATS)
def test_no_object_passes_for_plain_data(sandbox, name):
    value, test = CHEATS[name]
    program = f"{PROGRAM}\ndef f(x): return {value}"
    outcome = sandbox.run(
        Job(program=program, tests=(f"x = [30, 10, 20]\nr = f(x)\nassert {test}",)), wall_s=WALL_S
    )
    assert outcome.kind in ("failed", "too_large"), outcome


HONEST = {
    "a match": ("import re\ndef f(s): return re.match('(a)(?P<n>b)', s)", "m = f('ab')\nassert m and m[0] == 'ab' and m['n'] == 'b' and m.group(1) == 'a' and m.end() == 2 and not f('b')"),
    "a sequence without end": ("class Squares:\n    def __getitem__(self, i): return i * i\ndef f(): return Squares()", "assert f()[4] == 16 and f()[10**6] == 10**12"),
    "arrays, deques, paths and records": (
        "import array, collections, pathlib, types\ndef f(): return array.array('i', [1, 2]), collections.deque([1]), pathlib.PurePosixPath('/a/b'), types.SimpleNamespace(x=1)",
        "a, d, p, n = f()\nassert a.tolist() == [1, 2] and len(a) == 2 and list(a) == [1, 2] and d.popleft() == 1 and p.name == 'b' and n.x == 1",
    ),
    "views of a dict": (
        "def f(d): return d.keys(), d.values(), d.items()",
        "k, v, i = f({1: 2})\nassert len(k) == 1 and list(v) == [2] and (1, 2) in i and 1 in k",
    ),
    "an iterable of its own, read twice": (
        "class Bag:\n    def __init__(self, n): self.n = n\n    def __iter__(self): return ([i] for i in range(self.n))\ndef f(n): return Bag(n)",
        "r = f(2)\nassert list(r) == [[0], [1]] == list(r) and [0] in r and next(iter(r)) == [0] and [*zip(r, r)] == [([0], [0]), ([1], [1])]",
    ),
    "an iterable of its own that grows": (
        "class Bag:\n    def __init__(self): self.x = []\n    def __iter__(self): return iter(self.x)\ndef f(): return Bag()\ndef put(b, v): b.x.append(v)",
        "r = f()\nassert list(r) == []\nput(r, 1)\nput(r, 2)\nassert list(r) == [1, 2]",
    ),
    "an iterator of its own that begins anew": (
        ("class Up:\n    def __iter__(self):\n        self.n = 0\n        return self\n    def __next__(self):\n        if self.n == 3: raise StopIteration\n"
        "        self.n += 1\n        return self.n\ndef f(): return Up()"),
        "r = f()\nassert list(r) == [1, 2, 3] == list(r) and sum(r) == 6\nfor v in r: break\nassert list(r) == [1, 2, 3]",
    ),
    "a generator is read once": (
        "def f(n): yield from range(n)", "g = f(3)\nassert next(g) == 0 and list(g) == [1, 2] and list(g) == [] and next(g, 'end') == 'end' and 5 not in g"),
    "a generator that is sent values": (
        "def f():\n    total = 0\n    while True: total += yield total", "g = f()\nnext(g)\nassert g.send(2) == 2 and g.send(3) == 5\ng.close()"),
    "containers of the library": (
        ("from collections import *\ndef f(s): return Counter(s)\ndef g(s): return OrderedDict.fromkeys(s, 0)\ndef h(s):\n    d = defaultdict(list)\n"
        "    for i, c in enumerate(s): d[c].append(i)\n    return d\ndef k(x): return deque(x, maxlen=2)"),
        ("from collections import Counter, OrderedDict, deque\nassert f('aab') == {'a': 2, 'b': 1} == Counter('aba') and f('aab').most_common(1) == [('a', 2)] and f('a')['z'] == 0\n"
        "assert list(g('ba')) == ['b', 'a'] and g('ba') == {'a': 0, 'b': 0} and g('ab').popitem(last=False) == ('a', 0)\n"
        "assert h('aba') == {'a': [0, 2], 'b': [1]} and h('a')['z'] == [] and k([1, 2, 3]) == deque([2, 3]) and k([1]).maxlen == 2"),
    ),
    "containers of the library as arguments": (
        "def f(c): return c.most_common(1)\ndef g(d): d['k'] += 1\ndef h(d):\n    d.move_to_end('a')\ndef k(d): return d['new']",
        ("from collections import Counter, OrderedDict, defaultdict\nassert f(Counter('aab')) == [('a', 2)]\nd = defaultdict(int)\ng(d)\nassert d == {'k': 1}\n"
        "o = OrderedDict(a=1, b=2)\nh(o)\nassert list(o) == ['b', 'a'] and k(defaultdict(list)) == []"),
    ),
    "exceptions of the library": (
        ("import dataclasses, json, queue, statistics\nfrom decimal import Decimal\n@dataclasses.dataclass(frozen=True)\nclass P:\n    x: int\n"
        "def f(n):\n    [lambda: json.loads('{'), lambda: queue.Queue().get_nowait(), lambda: statistics.mean([]), lambda: Decimal('a')][n]()"),
        ("import dataclasses, decimal, json, queue, statistics\np = P(1)\ntry:\n    p.x = 2\n    assert False\nexcept dataclasses.FrozenInstanceError: pass\n"
        "for n, kind in enumerate((json.JSONDecodeError, queue.Empty, statistics.StatisticsError, decimal.InvalidOperation)):\n"
        "    try:\n        f(n)\n        assert False\n    except kind as e:\n        assert type(e).__name__ == kind.__name__ and (n or e.pos == 1)"),
    ),
    "an exception of a class below the one that the tests catch": (
        "class Base(Exception): pass\nclass Full(Base): pass\nclass Other(Base): pass\ndef f(): raise Full",
        "try:\n    f()\n    assert False\nexcept Base as e:\n    assert isinstance(e, Full) and isinstance(e, Base) and not isinstance(e, Other)",
    ),
    "a container of its own, read alone": (
        ("class Bag:\n    def __init__(self, x): self.x = x\n    def __len__(self): return len(self.x)\n"
        "    def __iter__(self): return iter(self.x)\n    def __getitem__(self, i): return self.x[i]\n"
        "def f(x): return Bag(x)"),
        ("r = f([1, 2, 3])\nassert len(r) == 3 and list(r) == [1, 2, 3] and r[0] == 1 and r[-1] == 3 and r[1:] == [2, 3]\n"
        "assert 2 in r and 9 not in r and list(reversed(r)) == [3, 2, 1] and bool(r)"),
    ),
    "a mapping of its own": (
        ("class Table:\n    def __init__(self, d): self.d = d\n    def __len__(self): return len(self.d)\n"
        "    def __iter__(self): return iter(self.d)\n    def __getitem__(self, k): return self.d[k]\n"
        "    def keys(self): return self.d.keys()\ndef f(d): return Table(d)"),
        ("r = f({'a': 1})\nassert r['a'] == 1 and len(r) == 1 and dict(r) == {'a': 1} and 'a' in r\n"
        "assert list(r.items()) == [('a', 1)] and r.get('b', 7) == 7 and 1 in r.values()"),
    ),
    "a class whose methods are a list's": (
        ("class Stack:\n    def __init__(self): self.x = []\n    def append(self, v): self.x.append(v)\n"
        "    def pop(self): return self.x.pop()\n    def __len__(self): return len(self.x)"),
        "s = Stack()\nassert not s\ns.append(1)\nassert len(s) == 1 and s.pop() == 1 and len(s) == 0",
    ),
    "an object of a factory": (
        ("class Queue:\n    def __init__(self): self.x = []\n    def enqueue(self, v): self.x.append(v)\n"
        "    def pop(self): return self.x.pop(0)\n    def __len__(self): return len(self.x)\ndef make(): return Queue()"),
        "q = make()\nassert len(q) == 0\nq.enqueue(1)\nq.enqueue(2)\nassert len(q) == 2 and q.pop() == 1 and len(q) == 1",
    ),
    "an attribute named as a builtin method": (
        "class Book:\n    def __init__(self): self.title, self.count = 'Emma', 3\ndef f(): return Book()",
        "assert f().title == 'Emma' and f().count == 3",
    ),
    "repr, str and format": (
        ("class P:\n    def __init__(self, x): self.x = x\n    def __repr__(self): return f'P({self.x})'\n"
        "    def __format__(self, spec): return format(self.x, spec)"),
        "assert repr(P(1)) == 'P(1)' and str(P(2)) == 'P(2)' and f'{P(3):.1f}' == '3.0' and repr([P(1)]) == '[P(1)]'",
    ),
    "unary operators": (
        ("class V:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x\n"
        "    def __neg__(self): return V(-self.x)\n    def __pos__(self): return V(self.x)\n"
        "    def __invert__(self): return V(~self.x)\n    def __abs__(self): return abs(self.x)"),
        "assert -V(1) == V(-1) and +V(1) == V(1) and ~V(0) == V(-1) and abs(V(-2)) == 2 and -(-V(3)) == V(3)",
    ),
    "arithmetic with numbers": (
        ("class V:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x\n"
        "    def __mul__(self, k): return V(self.x * k)\n    __rmul__ = __mul__\n    def __sub__(self, k): return V(self.x - k)\n"
        "    def __rsub__(self, k): return V(k - self.x)\n    def __int__(self): return self.x\n    def __float__(self): return 0.5"),
        ("assert V(2) * 3 == V(6) and 3 * V(2) == V(6) and V(5) - 1 == V(4) and 1 - V(5) == V(-4)\n"
        "assert V(1) * 2 * 3 == V(6) and int(V(3)) == 3 and float(V(1)) == 0.5"),
    ),
    "slices, and del of an item, a slice and an attribute": (
        ("class Row:\n    def __init__(self, x): self.x = list(x)\n    def __getitem__(self, i): return self.x[i]\n"
        "    def __setitem__(self, i, v): self.x[i] = v\n    def __delitem__(self, i): del self.x[i]\n"
        "    def __len__(self): return len(self.x)"),
        ("r = Row([1, 2, 3, 4])\nassert r[1:3] == [2, 3] and r[::-1] == [4, 3, 2, 1]\nr[0:2] = [9]\nassert r[0] == 9\n"
        "del r[1:]\nassert len(r) == 1\ndel r[0]\nassert len(r) == 0\ndel r.x\nassert not hasattr(r, 'x')"),
    ),
    "what only __contains__ answers": (
        "class Even:\n    def __contains__(self, x): return x % 2 == 0", "e = Even()\nassert 2 in e and 3 not in e"),
    "isinstance and issubclass": (
        "class A: pass\nclass B(A): pass\ndef f(): return B()",
        "assert isinstance(f(), A) and isinstance(f(), B) and not isinstance(3, A) and issubclass(B, A) and not issubclass(A, B)"),
    "a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x count')\ndef f(): return P(1, 2)",
        "x, y = f()\nassert f().x == 1 and f().count == 2 and f() == (1, 2) and f()[0] == 1 and str(f()) == 'P(x=1, count=2)'",
    ),
    "a class that extends list": (
        "class Stack(list):\n    def push(self, x): self.append(x)\n    def peek(self): return self[-1]",
        "s = Stack([1])\ns.push(2)\nassert s.peek() == 2 and s == [1, 2] and [1, 2] == s and s != [1] and len(s) == 2 and s + [3] == [1, 2, 3]",
    ),
    "operators in place, divmod and hash": (
        ("class V:\n    def __init__(self, x): self.x = x\n    def __iadd__(self, o):\n        self.x += o.x\n        return self\n"
        "    def __divmod__(self, o): return divmod(self.x, o.x)\n    def __eq__(self, o): return self.x == o.x\n"
        "    def __hash__(self): return hash(self.x)"),
        "v = w = V(1)\nv += V(2)\nassert v.x == 3 and v is w and divmod(V(7), V(2)) == (3, 1) and len({V(1), V(1), V(2)}) == 2",
    ),
    "a context manager that is told of an exception": (
        "class C:\n    def __enter__(self): return self\n    def __exit__(self, kind, error, trace): self.seen = kind and (kind.__name__, str(error))",
        "c = C()\ntry:\n    with c:\n        raise ValueError('no')\nexcept ValueError: pass\nassert c.seen == ('ValueError', 'no')\nwith c: pass\nassert c.seen is None",
    ),
    "the arguments of an exception": (
        "def f(x): raise KeyError('a', 2)\ndef g(): raise KeyError('x')\ndef h(): raise OSError(2, 'no')",
        ("for call, args, text in ((lambda: f(1), ('a', 2), \"('a', 2)\"), (g, ('x',), \"'x'\"), (h, (2, 'no'), '[Errno 2] no')):\n"
        "    try:\n        call()\n        assert False\n    except (KeyError, OSError) as e:\n"
        "        assert e.args == args and str(e) == text, (e.args, str(e))\n        assert type(e) in (KeyError, FileNotFoundError)"),
    ),
    "text, attributes and name of an exception of its own": (
        ("class Coded(ValueError):\n    def __init__(self, code):\n        super().__init__(code)\n        self.code = code\n"
        "    def __str__(self): return f'code {self.code}'\ndef f(): raise Coded(7)"),
        ("try:\n    f()\n    assert False\nexcept ValueError as e:\n"
        "    assert str(e) == 'code 7' and e.code == 7 and e.args == (7,) and type(e).__name__ == 'Coded'"),
    ),
    "an exception of its own that the tests catch": (
        "class Base(Exception): pass\nclass Empty(Base): pass\ndef f(): raise Empty('nothing')",
        ("for kind in (Empty, Base):\n    try:\n        f()\n        assert False\n    except (Empty, Base) as e:\n"
        "        assert str(e) == 'nothing' and isinstance(e, kind)"),
    ),
    "a long text of an exception": (
        "def f(): raise ValueError('x' * 2000)", "try:\n    f()\nexcept ValueError as e:\n    assert len(str(e)) == 2000"),
    "name and docstring of a function": (
        "def f(x: int) -> str:\n    'Doc.'", "assert f.__name__ == 'f' and f.__doc__ == 'Doc.' and f.__annotations__ == {'x': int, 'return': str}"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_objects_of_own_classes_work_across_the_channel(sandbox, name):
    program, test = HONEST[name]
    outcome = sandbox.run(Job(program=program, tests=(test,)), wall_s=WALL_S)
    assert outcome.kind == "passed", outcome


def test_an_exception_that_the_tests_do_not_expect_is_not_caught(attack):
    caught = "try:\n    f()\n    assert False\nexcept Empty:\n    pass"
    assert attack("class Empty(Exception): pass\ndef f(): raise ValueError", caught).kind == "failed"
    assert attack("class Empty(Exception): pass\ndef f(): pass", caught).kind == "failed"
    for kind in ("Exception", "BaseException", "AssertionError", "object", "(Exception,)"):
        assert attack(f"Empty = {kind}\ndef f(): pass", caught).kind == "failed"


def test_an_exception_of_the_library_cannot_skip_a_test(attack):
    skips = "import unittest\ndef f(x): raise unittest.SkipTest"
    case = "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(7), 49)\nresult = unittest.TestResult()\n"
    case += "unittest.defaultTestLoader.loadTestsFromTestCase(T).run(result)\nassert result.wasSuccessful() and not result.skipped"
    assert attack(skips, case).kind == "failed"
    assert attack("def f(x): return x * x", case).kind == "passed"
    for library in (
        ["unittest.case", "SkipTest"],
        ["builtins", "StopIteration"],
        ["queue", "threading"],
        "ab",
        [5, 6],
    ):
        forged = f"{SEND}\nimport json\ndef f(x): send(json.dumps(['raise', ['Exception', ['E'], [], {{}}, {library!r}], '', None]).encode())"
        assert attack(forged, "try:\n    f(1)\nexcept ValueError: pass").kind == "failed"


def test_a_candidate_with_an_exception_that_names_a_module_does_not_choose_that_its_tests_are_at_fault(
    attack,
):
    program = "class E(ModuleNotFoundError):\n    name = 'numpy'\ndef f(x): raise E('No module named numpy', name='numpy')"
    plain = "def f(x): raise ModuleNotFoundError(\"No module named 'numpy'\", name='numpy')"
    for text in (program, plain, "def f(x): import numpy"):
        assert attack(text, "assert f(1) == 1").kind == "failed"
        assert (
            attack(text, "import math\ntry:\n    f(1)\nexcept Exception as e:\n    raise e").kind == "failed"
        )
    assert attack("def f(x): return 'numpy'", "__import__(f(1))").kind == "failed"


def test_long_lists_texts_and_iterators_go_through(attack):
    """Of 1 MiB here; as a verifier is set up, 200,000 integers and 1.5 million characters."""
    program = (
        "def f(kind, n):\n    return {'list': list(range(n)), 'text': 'a' * n, 'items': iter(range(n))}[kind]"
    )
    assert (
        attack(program, "assert f('list', 100000)[-1] == 99999 and len(f('text', 10**6)) == 10**6").kind
        == "passed"
    )
    assert attack(program, "assert sum(1 for _ in f('items', 20000)) == 20000").kind == "passed"
    assert attack(program, "assert len(f('text', 1 << 20)) > 0").kind == "too_large"
    assert attack(program, "assert len(f('list', 10**6)) > 0").kind == "too_large"


@pytest.mark.parametrize(
    "value", ["'x' * 50_000_000", "'x' * 150_000_000", "1 << 80_000_000", "nested(10**5)", "[0] * 10**7"],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_too_large_and_not_wrong(attack, value):
    program = (
        f"def nested(n):\n    x = []\n    for _ in range(n): x = [x]\n    return x\ndef f(x): return {value}"
    )
    assert attack(program, "try:\n    f(1)\nexcept BaseException:\n    pass").kind == "too_large"
