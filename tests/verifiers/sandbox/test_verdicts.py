"""No candidate says that it passed.

One attack a test. `attack` runs the hostile program, then a good one, and asserts that nothing is left running. Where
a test must see what an attempt led to, the hostile function reports it and the tests of the job compare it. So do the
other files of this folder.
"""

from __future__ import annotations

import pytest

from tests.shared.sandbox_attacks import SEND, SHORT_S
from verifiers.sandbox.remote import GONE


def test_exit_at_the_top_of_the_program_is_no_pass(attack):
    assert attack("import sys; sys.exit(0)").kind == "failed"


def test_exit_in_the_function_is_no_pass(attack):
    outcome = attack("import sys\ndef f(x): sys.exit(0)")
    assert outcome.kind == "failed" and "SystemExit" in outcome.detail


def test_os_exit_at_the_top_is_no_pass(attack):
    assert attack("import os; os._exit(0)").kind == "failed"


def test_os_exit_in_the_function_is_no_pass(attack):
    assert attack("import os\ndef f(x): os._exit(0)").detail == GONE


def test_a_test_that_catches_everything_does_not_hide_that_the_candidate_is_gone(attack):
    swallow = "try:\n    f(1)\nexcept BaseException:\n    pass"
    assert attack("import os\ndef f(x): os._exit(0)", swallow).kind == "failed"


def test_keyboard_interrupt_and_generator_exit_arrive_as_ordinary_errors(attack):
    for name in ("KeyboardInterrupt", "GeneratorExit", "SystemExit"):
        outcome = attack(f"def f(x): raise {name}")
        assert outcome.kind == "failed" and outcome.detail.startswith("RuntimeError")


def test_stop_iteration_does_not_end_the_loop_over_the_tests(attack):
    assert attack("def f(x): raise StopIteration", "assert all(map(f, [1, 2]))").kind == "failed"


def test_a_class_named_like_a_builtin_error_is_not_that_error(attack):
    program = "class ValueError(Exception): pass\ndef f(x): raise ValueError"
    expects = "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False"
    assert attack(program, expects).kind == "failed"
    assert attack("def f(x): raise ValueError", expects).kind == "passed"


def test_patched_builtins_do_not_reach_the_tests(attack):
    program = """
        import builtins, math
        for name in ("abs", "all", "any", "isinstance", "len", "sorted", "set", "sum"):
            setattr(builtins, name, lambda *a, **k: True)
        math.isclose = lambda *a, **k: True
        def f(x): return 0
    """
    tests = ("assert abs(f(7) - 49) < 1e-6", "assert all(f(i) == i * i for i in range(9))")
    assert attack(program, *tests).num_passed == 0
    assert attack(program, "import math", "assert math.isclose(f(7), 49)").kind == "failed"


def test_names_of_builtins_that_the_program_defines_do_not_reach_the_tests(attack):
    program = "def abs(x): return 0\ndef set(x): return 0\ndef f(x): return 0"
    assert attack(program, "assert abs(f(7) - 49) < 1e-6").kind == "failed"
    assert attack(program, "assert set([f(7)]) == set([49])").kind == "failed"


def test_a_patched_assertion_error_does_not_disable_assert(attack):
    program = (
        "import builtins\nbuiltins.AssertionError = type('Never', (BaseException,), {})\ndef f(x): return 0"
    )
    assert attack(program).kind == "failed"


def test_an_object_equal_to_everything_equals_nothing(attack):
    program = """
        class Same:
            __eq__ = __le__ = __ge__ = __contains__ = lambda self, other: True
            __ne__ = __lt__ = __gt__ = lambda self, other: False
            __hash__ = lambda self: hash(49)
        def f(x): return Same()
    """
    assert attack(program).kind == "failed"
    assert attack(program, "assert 49 == f(7)").kind == "failed"
    assert attack(program, "assert f(7) in {49, 50}").kind == "failed"
    assert attack(program, "assert {49: 1}[f(7)] == 1").kind == "failed"
    assert attack(program, "assert f(7) <= 49").kind == "failed"
    assert attack(program, "assert [f(7)] == [49]").kind == "failed"


def test_operators_never_let_the_candidate_decide_about_plain_data(attack):
    program = """
        class Liar:
            def __getattr__(self, name): return 0
            __sub__ = __rsub__ = __add__ = __mod__ = __mul__ = lambda self, other: 0
            __abs__ = __float__ = lambda self: 0.0
            __eq__ = __lt__ = __le__ = __contains__ = lambda self, other: True
            __exit__ = lambda self, *error: True
            __enter__ = lambda self: 49
        def f(x): return Liar()
    """
    for test in (
        "abs(f(7) - 49) < 1e-6",
        "abs(49 - f(7)) < 1e-6",
        "f(7) % 2 == 0",
        "f(7) == 49",
        "49 in f(7)",
    ):
        assert attack(program, f"assert {test}").kind == "failed"
    assert attack(program, "with f(7):\n    assert False").kind == "failed"


@pytest.mark.parametrize(
    ("base", "value"), [("str", "'a'"), ("int", "1"), ("float", "1.5"), ("list", "[1]"), ("tuple", "(1,)"),
                        ("dict", "{1: 2}"), ("set", "{1}"), ("bytes", "b'a'")],
)  # fmt: skip
def test_a_subclass_of_a_plain_type_is_compared_as_the_plain_type(attack, base, value):
    program = f"""
        class Liar({base}):
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = lambda self: 0
        def f(x): return Liar({value})
    """
    assert attack(program, f"assert f(0) == {value}").kind == "passed"
    assert attack(program, "assert f(0) == 49").kind == "failed"
    assert attack(program, f"assert type(f(0)) is {base}").kind == "passed"


def test_result_lines_on_every_descriptor_are_not_read_as_the_verdict(attack):
    program = """
        import json, os, struct
        line = json.dumps({"kind": "passed", "detail": "", "passed": 1, "digest": None}).encode()
        for descriptor in range(256):
            for data in (line + b"\\n", struct.pack("!I", len(line)) + line):
                try: os.write(descriptor, data)
                except OSError: pass
        def f(x): return 0
    """
    assert attack(program).kind == "failed"


def test_replies_sent_before_they_are_asked_for_are_only_values(attack):
    program = (
        SEND
        + 'for _ in range(50): send(b\'["value",true,"",null]\')\nos.closerange(0, 3)\ndef f(x): return 0'
    )
    assert attack(program).kind == "failed"
    assert attack(program, "assert f is True").kind == "passed", "the replies did not arrive"


@pytest.mark.parametrize(
    "reply",
    ['nonsense', '[]', '{}', '7', '"abcd"', '["passed",1,"",null]', '["value",{"r":"x"},"",null]',
     '["value",{"x":["eval","1"]},"",null]', '["value",{"n":"eval"},"",null]', '["value",{"s":[[1]]},"",null]',
     '["raise",["ValueError"],"",null]', '["value",1,"",[[1,2,3],{}]]', '["value",{"i":7},"",null]',
     '["value",{"x":["bytearray",100000000000]},"",null]', "[" * 100_000],
)  # fmt: skip
def test_a_reply_outside_the_protocol_ends_the_candidate(attack, reply):
    outcome = attack(f"{SEND}def f(x): send({reply!r}.encode())")
    assert outcome.kind == "failed" and "repl" in outcome.detail


def test_a_reply_that_announces_too_much_is_not_waited_for(attack):
    assert "more than" in attack(f"{SEND}def f(x): send(b'', 0xffffffff)").detail


def test_a_reply_that_never_ends_is_a_timeout(attack):
    program = f"{SEND}import time\ndef f(x):\n    send(b'', 1000)\n    time.sleep(60)"
    assert attack(program, wall_s=SHORT_S).kind == "timeout"


def test_the_tests_are_nowhere_in_the_memory_that_python_can_walk(attack):
    program = """
        import gc, sys
        def f(x):
            gc.unfreeze()
            found, todo, seen = [], [*gc.get_objects(), *sys._current_frames().values(), *sys.modules.values()], set()
            while todo:
                item = todo.pop()
                if id(item) in seen: continue
                seen.add(id(item))
                if isinstance(item, (str, bytes)) and len(item) < 100_000:
                    text = item if isinstance(item, str) else item.decode("latin1")
                    if "".join(["xylo", "phone"]) in text: found.append(text[:80])
                todo.extend(gc.get_referents(item))
            return found
    """
    assert attack(program, "assert f('look for xylophone'.upper()) == []").kind == "passed"


def test_a_trace_function_sees_no_test(attack):
    program = """
        import sys
        names = set()
        def trace(frame, event, argument):
            names.add(frame.f_code.co_filename)
            return trace
        sys.settrace(trace)
        def f(x): return sorted(name for name in names if "tests" in name or "check" in name)
    """
    assert attack(program, "assert f(1) == []", "assert f(2) == []").kind == "passed"


def test_overwriting_the_checkers_code_changes_only_the_candidates_copy(attack):
    program = """
        import sys
        checker = sys.modules["verifiers.sandbox.checker"]
        checker.check = checker._run = checker._exception = lambda *a: {"kind": "passed"}
        sys.modules["verifiers.sandbox.values"].encode = lambda *a: 49
        def f(x): return 0
    """
    assert attack(program, "assert f(7) == 48").kind == "failed"


def test_an_error_whose_text_fails_is_an_ordinary_error(attack):
    program = """
        class Hostile(Exception):
            def __str__(self): raise SystemExit(0)
            __repr__ = __str__
        def f(x): raise Hostile
    """
    assert attack(program).kind == "failed"


def test_an_object_in_the_message_of_an_assert_is_an_ordinary_failure(attack):
    program = """
        class Hostile:
            def __init__(self, how): self.how = how
            def __str__(self): eval(self.how)
        def f(how): return Hostile(how)
    """
    for how in ("7", "exit(0)", "__import__('os')._exit(0)", "[].pop()"):
        assert attack(program, f"assert f({how!r}) == 49, f({how!r})").kind == "failed"


@pytest.mark.parametrize(
    "value",
    ["float('nan')", "Decimal('NaN')", "Decimal('sNaN')", "True", "[49]", "(49,)", "iter([49])", "type('N', (), {})",
     "(49 for _ in 'x')", "types.SimpleNamespace(real=49)", "Mock()", "functools.partial(int, 49)", "f", "Flips(49)"],
)  # fmt: skip
def test_nothing_that_only_resembles_the_answer_equals_it(attack, value):
    program = f"""
        import functools, types
        from decimal import Decimal
        class Mock:
            __getattr__ = __call__ = __iter__ = lambda self, *arguments, **keywords: self
            __next__ = lambda self: 49
        class Flips(int):
            turn = 0
            def __eq__(self, other):
                self.turn += 1
                return self.turn % 2 == 1
            __hash__ = int.__hash__
            __int__ = __index__ = __reduce__ = lambda self: 49
            __class__ = property(lambda self: int)
        Flips.__new__ = lambda cls, n: int.__new__(cls, 50)
        def f(x): return {value}
        """
    for test in (
        "f(7) == 49",
        "not f(7) != 49",
        "49 in [f(7)]",
        "[49].index(f(7)) == 0",
        "-1e-6 < f(7) - 49 < 1e-6",
    ):
        assert attack(program, f"assert {test}").kind == "failed", test


def test_objects_left_in_the_tests_own_list_equal_none_of_its_values(attack):
    program = """
        class Same:
            __eq__ = __lt__ = __le__ = lambda self, other: True
        def f(x): x[:] = [Same(), Same()]
    """
    for test in (
        "x == [1, 2]",
        "sorted(x) == [1, 2]",
        "1 in x",
        "x.index(2) == 1",
        "x.count(1)",
        "(1, 2) == tuple(x)",
    ):
        assert attack(program, f"x = [2, 1]\nf(x)\nassert {test}").kind == "failed"


def test_hooks_of_the_interpreter_see_nothing_and_change_nothing(attack):
    program = """
        import atexit, builtins, gc, sys, threading, weakref
        seen = []
        hook = lambda *arguments: seen.append(repr(arguments)[:1000])
        sys.addaudithook(hook); sys.setprofile(hook); threading.settrace(hook); gc.callbacks.append(hook)
        atexit.register(hook); sys.excepthook = sys.unraisablehook = sys.displayhook = hook
        builtins.__import__ = lambda *arguments, real=__import__: hook(arguments) or real(*arguments)
        builtins.__build_class__ = builtins.compile = builtins.exec = builtins.print = hook
        sys.meta_path[:] = sys.path_hooks[:] = []
        def f(x): return [text for text in seen if "xylo" + "phone" in text]
    """
    assert attack(program, "import colorsys\nxylophone = 1\nassert f(1) == [] and xylophone").kind == "passed"
    assert attack(program, "assert f(7) == 49").kind == "failed"


def test_a_process_that_takes_the_candidates_place_only_returns_values(attack):
    replacement = f'{SEND}import time\nsend(b\'["value",true,"",null]\')\ntime.sleep(60)'
    program = f"""
        import os, sys
        def f(x):
            for descriptor in range(3, 64):
                try: os.set_inheritable(descriptor, True)
                except OSError: pass
            os.execv(sys.executable, [sys.executable, "-S", "-c", {replacement!r}])
    """
    assert attack(program, "assert f(7) == 49").kind == "failed"
    assert attack(program, "assert f(7) is True").kind == "passed"


def test_an_infinite_iterator_does_not_satisfy_any_test(attack):
    program = "import itertools\ndef f(x): return itertools.repeat(49)"
    assert attack(program, "assert list(f(7)) == [49]").kind == "too_large"


def test_a_list_that_contains_itself_is_refused(attack):
    assert "nested deeper" in attack("def f(x):\n    a = []; a.append(a); return a").detail


def test_a_deeply_nested_result_is_refused(attack):
    assert "nested deeper" in attack("def f(x):\n    for _ in range(10**5): x = [x]\n    return x").detail


def test_a_result_that_grows_too_deep_on_its_way_back_is_too_large_and_not_the_tests_fault(attack):
    program = "def f(x):\n    for _ in range(100): x = [x]\n    return x"
    outcome = attack(program, "assert f([[[f(0)]]]) == 49")
    assert outcome.kind == "too_large" and "too large" in outcome.detail


def test_a_huge_result_is_refused(attack):
    assert "more than" in attack("def f(x): return 'x' * 50_000_000").detail


def test_a_huge_integer_is_refused(attack):
    assert "more than" in attack("def f(x): return 1 << 80_000_000").detail


def test_a_power_that_takes_for_ever_is_a_timeout(attack):
    assert attack("def f(x): return 9**9**9", wall_s=SHORT_S).kind == "timeout"


def test_colliding_hashes_cost_the_candidate_its_own_time(attack):
    program = "def f(x): return {i * ((1 << 61) - 1) for i in range(1, 30_000)}"
    assert attack(program, wall_s=SHORT_S).kind in ("timeout", "failed")
