"""The checker's side of a judgement: runs the data set's tests, with stand-ins where they call the candidate.

Runs inside the sandbox, in a process of its own that the candidate's cannot see: standard library only. The tests
compare values that were decoded here, and the verdict goes straight to the host; the candidate has a say in
neither. It can return what it likes, and that is all.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import linecache
import sys
import traceback
import types
from collections.abc import Container
from typing import Any

from verifiers.sandbox.errors import caught_names
from verifiers.sandbox.given import TESTS
from verifiers.sandbox.instances import Instances
from verifiers.sandbox.outputs import run_cases
from verifiers.sandbox.remote import GONE, CandidateGoneError, Link, Remote
from verifiers.sandbox.values import Channel


def check(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """The outcome of a job: `kind` (passed, failed, too_large, wrong_format, unsupported, sandbox), `detail`, `passed`, `digest`.

    `unsupported` is a fault of the problem, `sandbox` one of the sandbox: neither says anything about the candidate.
    """
    namespace: dict[str, Any] = {"__name__": TESTS}
    try:
        exec(_compile(job["prelude"], "<prelude>"), namespace)  # noqa: S102  the data set's code
        text = "\n".join([job["setup"], *job["tests"]])
        tree = ast.parse(text)
        if job["entry"]:
            namespace.pop(job["entry"].partition("(")[0], None)
        shared = {name: value for name, value in namespace.items() if _is_own_class(value)}
        link = Link(channel, Remote, Instances(list(shared), lambda: shared))
        names, modules = names_to_ask(job["entry"], tree, namespace)
        namespace |= {name: importlib.import_module(name) for name in modules}
        import_errors = _try_imports(tree) if "import" in text else set()
    except BaseException as error:  # noqa: BLE001  data may raise anything
        return make_outcome("unsupported", f"the problem's own code fails: {_describe(error)}")
    try:
        if channel.receive() != ["ready"]:
            return make_outcome("sandbox", "the candidate's process could not be set up")
    except (EOFError, OSError):
        return make_outcome("sandbox", "the candidate's process could not be set up")

    outcome = make_outcome("failed", "")
    try:
        channel.send([job["program"], job["reading"], list(shared)])
        kind, text = channel.receive()
        if kind == "syntax":
            return make_outcome("wrong_format", text)
        outcome["digest"] = text
        if job["cases"]:
            return run_cases(job, channel, outcome)
        link.receive()  # raises what the program itself raises
        catches = any(
            "except" in source or "assertRaises" in source for source in (job["setup"], *job["tests"])
        )
        caught = caught_names(tree) if catches else ()
        for name in names:
            try:
                value = link.name(name)
            except AttributeError:
                outcome["detail"] = f"the candidate does not define {name}"
            else:
                is_caught = name in caught and isinstance(value, Remote)
                namespace[name] = link.errors.local_class(name) if is_caught else value
    except (CandidateGoneError, EOFError, OSError):
        kind = "too_large" if link.is_too_large else "failed"
        return {**outcome, "kind": kind, "detail": link.gone or GONE}
    except Exception as error:  # noqa: BLE001  what the program raises
        return {**outcome, "detail": f"the program raises {_describe(error)}"}

    sources = [job["setup"], *job["tests"]] if job["setup"] else job["tests"]
    failures = 0
    for number, source in enumerate(sources):
        failure = _run(source, namespace, number, link, import_errors)
        if link.unsupported:
            return make_outcome("unsupported", link.unsupported)
        if failure or link.gone:
            failures += 1
            outcome["detail"] = outcome["detail"] or link.gone or failure
            if link.gone or not job["run_all"] or (number == 0 and job["setup"]):
                failures += len(sources) - number - 1
                break
    outcome["passed"] = max(0, len(job["tests"]) - failures)
    if link.is_too_large:
        outcome["kind"] = "too_large"
    elif not failures and (misfit := link.fitting.misfit()):
        outcome |= {"passed": 0, "detail": misfit}
    elif not failures:
        outcome |= {"kind": "passed", "detail": ""}
    return outcome


def names_to_ask(entry: str | None, tree: ast.Module, known: Container[str]) -> tuple[list[str], list[str]]:
    """Which names in the tests are the candidate's, and which are modules of the standard library.

    Those that are called or read, and that neither the tests, the problem's own code (`known`), the builtins nor the
    standard library define. If there is none, the tests are of a function that shadows a builtin (MBPP's `sum`): the
    one called first. No other builtin is ever taken from the candidate.
    """
    called, read, defined = [], [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                read.append(node.id)
            else:
                defined.add(node.id)
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                called.append(node.func.id)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
            defined.add(node.name or "")
    asked, modules = [], []
    for name in dict.fromkeys(read):
        if name in known or name in defined or hasattr(builtins, name) or name == "__name__":
            continue
        if name in sys.stdlib_module_names and name not in called:
            modules.append(name)
        else:
            asked.append(name)
    if entry:
        return list(dict.fromkeys([entry.partition("(")[0], *asked])), modules
    return asked or [name for name in called if name not in known and name not in defined][:1], modules


def _is_own_class(value: Any) -> bool:
    """A class of the problem's own that holds plain attributes: no exception, no container."""
    builtin = (BaseException, list, tuple, dict, set, frozenset, str, bytes, int, float)
    return isinstance(value, type) and value.__module__ == TESTS and not issubclass(value, builtin)


def _try_imports(tree: ast.Module) -> set[str]:
    """Import what the tests import, and return what went wrong.

    Before the candidate is there: values of its that fill the memory make an extension module fail to load.
    """
    errors = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            try:
                exec(_compile(ast.Module([node], []), "<imports>"), {"__name__": TESTS})  # noqa: S102
            except ImportError as error:
                errors.add(_describe(error))
    return errors


def _run(source: str, namespace: dict[str, Any], number: int, link: Link, import_errors: set[str]) -> str:
    """Run one test; what went wrong, or nothing."""
    file = f"<{TESTS} {number}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        exec(_compile(source, file), namespace)  # noqa: S102  the data set's code
    except BaseException as error:  # noqa: BLE001  SystemExit too is no pass
        if _describe(error) in import_errors and not link.errors.has_made(error):
            link.unsupported = f"the tests need what the sandbox does not have: {_describe(error)}"
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f" at {frames[-1].line}" if frames else ""
        return f"{_describe(error)}{where}"[:500]
    return ""


def _compile(source: str | ast.Module, file: str) -> types.CodeType:
    """Not with this module's own `annotations`: those of the data set's code are evaluated, as anywhere."""
    return compile(source, file, "exec", dont_inherit=True)


def make_outcome(kind: str, detail: str) -> dict[str, Any]:
    return {"kind": kind, "detail": detail, "passed": 0, "digest": None}


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001  of an assert's message that is the candidate's object, say
        text = ""
    return " ".join(f"{type(error).__name__}: {text}".split()).removesuffix(":")[:300]
