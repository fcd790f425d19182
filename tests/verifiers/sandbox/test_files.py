"""No candidate reads or writes others' files. How an attack is written: `test_verdicts.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.shared.paths import ROOT
from tests.shared.sandbox_attacks import attempt


def test_the_environment_is_empty(attack):
    program = attempt("result = dict(os.environ), libc.getenv(b'HOME'), libc.getenv(b'PATH')")
    assert attack(program, "assert f() == ({}, 0, 0)").kind == "passed"


def test_the_root_holds_the_interpreter_and_nothing_else(attack):
    tops = {Path(sys.base_prefix).parts[1], *os.listdir("/")} - {
        "etc",
        "home",
        "proc",
        "sys",
        "work",
        "var",
        "run",
        "opt",
    }
    program = attempt("result = sorted(os.listdir('/'))")
    assert attack(program, f"assert set(f()) <= {tops | {'bonfire', 'dev', 'tmp'}!r}").kind == "passed"
    program = attempt(
        "result = [os.path.exists(p) for p in ('/etc', '/proc', '/sys', '/home', '/work', '/var')]"
    )
    assert attack(program, "assert f() == [False] * 6").kind == "passed"


def test_the_users_files_are_not_there(attack, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    for path in (secret, ROOT / "pyproject.toml", Path(__file__), Path.home() / ".bashrc", "/etc/passwd"):
        assert attack(attempt(f"open({str(path)!r})"), "assert f() == 'FileNotFoundError'").kind == "passed"


def test_no_process_can_be_read_in_proc(attack):
    assert attack(attempt("open('/proc/1/environ')"), "assert f() == 'FileNotFoundError'").kind == "passed"


def test_there_is_no_device_but_null(attack):
    assert attack(attempt("result = os.listdir('/dev')"), "assert f() == ['null']").kind == "passed"


def test_a_symlink_leads_nowhere_outside(attack):
    program = attempt("os.symlink('/etc/passwd', 'link'); open('link')")
    assert attack(program, "assert f() == 'FileNotFoundError'").kind == "passed"


def test_a_symlink_to_the_checkers_file_cannot_be_written_through(attack):
    program = attempt("os.symlink('/bonfire/verifiers/sandbox/checker.py', 'link'); open('link', 'a')")
    assert attack(program, "assert f() in ('OSError', 'PermissionError')").kind == "passed"


def test_the_interpreter_and_the_root_cannot_be_written(attack):
    for path in ("/new", "/bonfire/new", "/dev/new"):
        assert (
            attack(attempt(f"open({path!r}, 'w')"), "assert f() in ('OSError', 'PermissionError')").kind
            == "passed"
        )
    program = attempt("open(os.__file__, 'a')")
    assert attack(program, "assert f() in ('OSError', 'PermissionError')").kind == "passed"


def test_installed_packages_are_not_there(attack):
    assert attack(attempt("import numpy"), "assert f() == 'ModuleNotFoundError'").kind == "passed"


def test_what_a_candidate_writes_is_gone_for_the_next(attack):
    assert attack(attempt("open('note', 'w').write('x')"), "assert f() is None").kind == "passed"
    assert attack(attempt("result = os.listdir('.')"), "assert f() == []").kind == "passed"


def test_what_a_candidate_patches_is_whole_for_the_next(attack):
    assert (
        attack("import json, random\njson.dumps = None; random.random = None; f = lambda x: x * x").kind
        == "failed"
    )
    assert (
        attack("import json, random\nf = lambda x: x * x if json.dumps and random.random else 0").kind
        == "passed"
    )
