"""A problem's own tests: which names in them are the candidate's, and that all that they assert is run.

The tests are the data set's: trusted code, parsed outside of the sandbox.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from functools import lru_cache

from verifiers.sandbox.checker import names_to_ask

CACHED_PROBLEMS = 64
"""All candidates of a problem come one after the other."""
_RUNNERS = ("unittest.main", "pytest.main")


@lru_cache(CACHED_PROBLEMS)
def wanted_names(sources: tuple[str, ...], prelude: str) -> list[str]:
    """What the tests ask of a candidate; `prelude` is the problem's own code, which they may use too."""
    known = {name for node in ast.parse(prelude).body for name in _bound(node)}
    asked, _ = names_to_ask(None, ast.parse("\n".join(sources)), known)
    return asked


def _bound(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return {alias.asname or alias.name.partition(".")[0] for alias in aliases}
    return {
        part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }


@lru_cache(CACHED_PROBLEMS)
def with_calls(sources: tuple[str, ...]) -> tuple[str, ...]:
    """The tests with a call of each test function, test class and main part that only a test runner would run."""
    trees = [ast.parse(source) for source in sources]
    called = _read_names(trees)
    result = []
    for source, tree in zip(sources, trees, strict=True):
        body = list(_run_statements(tree.body))
        if body != tree.body:
            source = "\n".join(map(ast.unparse, body))
        calls = [call for node in body for call in _calls(node, called)]
        result.append("\n".join([source, *calls]) if calls else source)
    return tuple(result)


def why_not_run(sources: Sequence[str]) -> str | None:
    """What in the tests would never be run, and so pass every program; None if there is nothing."""
    trees = [ast.parse(source) for source in sources]
    read = _read_names(trees)
    for tree in trees:
        for node in _run_statements(tree.body):
            if why := _why_no_call(node, read):
                return why
        run = {part for node in tree.body for part in _run_by_us(node)}
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            if function not in run and function.name not in read and _asserts(function):
                return f"{function.name}() asserts something and is called by nothing: call it in the tests"
    return None


def _run_statements(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """With what stands under `if __name__ == "__main__"`, and without the start of a test runner."""
    for node in body:
        if isinstance(node, ast.If) and "__name__" in _names(node.test):
            yield from _run_statements(node.body)
        elif not (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) in _RUNNERS
        ):
            yield node


def _calls(node: ast.stmt, called: set[str]) -> list[str]:
    if isinstance(node, ast.FunctionDef) and _is_test(node) and node.name not in called:
        return [f"{node.name}()"]
    if isinstance(node, ast.ClassDef) and node.name not in called and _test_methods(node):
        if _is_test_case(node):
            return [f"__import__('unittest').defaultTestLoader.loadTestsFromTestCase({node.name}).debug()"]
        return [f"{node.name}().{method.name}()" for method in _test_methods(node)]
    return []


def _why_no_call(node: ast.stmt, read: set[str]) -> str | None:
    """Of a test function or class that we call ourselves: why a call without arguments would not run it."""
    parts: list[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]] = []
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_test(node) and node.name not in read:
        parts = [(node, 0)]
    elif isinstance(node, ast.ClassDef) and node.name not in read:
        parts = [(method, 1) for method in _test_methods(node)]
        names = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        if parts and not _is_test_case(node) and names & {"setup_method", "setup_class", "__init__"}:
            return f"class {node.name} is set up by pytest, which is not here: use unittest.TestCase"
    for function, num_given in parts:
        positional = [*function.args.posonlyargs, *function.args.args]
        needed = len(positional) - len(function.args.defaults) - num_given
        needed += sum(default is None for default in function.args.kw_defaults)
        if needed > 0:
            return f"{function.name}() takes arguments that nothing gives it: make it take none"
        if isinstance(function, ast.AsyncFunctionDef) or any(
            isinstance(part, ast.Yield | ast.YieldFrom | ast.Await) for part in ast.walk(function)
        ):
            return f"{function.name}() is a generator or a coroutine, which a call does not run: make it a function"
    return None


def _run_by_us(node: ast.stmt) -> set[ast.AST]:
    if isinstance(node, ast.ClassDef):
        fixtures = ("setUp", "tearDown", "setUpClass", "tearDownClass")
        functions = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        return {part for part in functions if _is_test(part) or part.name in fixtures}
    return {node} if isinstance(node, ast.FunctionDef) and _is_test(node) else set()


def _is_test(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return node.name.startswith("test")


def _test_methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    if not (node.name.startswith("Test") or _is_test_case(node)):
        return []
    functions = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [part for part in functions if _is_test(part)]


def _is_test_case(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).endswith("TestCase") for base in node.bases)


def _asserts(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.Assert) or (isinstance(part, ast.Attribute) and part.attr.startswith("assert"))
        for part in ast.walk(node)
    )


def _read_names(trees: Iterable[ast.AST]) -> set[str]:
    """Names that are read, and attributes by their last name."""
    return {
        name
        for tree in trees
        for node in ast.walk(tree)
        for name in ([node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else [])
        + ([node.attr] if isinstance(node, ast.Attribute) else [])
    }


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


@lru_cache(CACHED_PROBLEMS)
def as_program(prompt: str) -> str:
    """The prompt as code that parses: one that stops before the function's body gets an empty one."""
    try:
        ast.parse(prompt)
    except SyntaxError:
        return f"{prompt.rstrip()}\n    pass\n"
    return prompt
