"""A user's module is imported in a process of its own first: whatever it does there is one line here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from verifiers.config import VerifierConfig
from verifiers.process import child_process
from verifiers.process.child_process import VerifierStartError
from verifiers.process.trial import try_imports
from verifiers.registry import import_verifier

JUDGE = "\ndef judge(problem, completion):\n    return 0.0\n"


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.syspath_prepend(str(tmp_path))

    def attempt(source: str, **settings: float) -> str:
        """What is said of a module of that source; empty where it can be imported."""
        (tmp_path / "tried_module.py").write_text(source + JUDGE)
        try:
            try_imports(VerifierConfig(reward="tried_module:judge", **settings))
        except VerifierStartError as error:
            assert "\n" not in str(error)
            return str(error)
        return ""

    return attempt


def test_a_module_that_can_be_imported_is_and_ours_are_not_asked(attempt: Callable[..., str]) -> None:
    assert attempt("import json") == ""
    try_imports(VerifierConfig(reward="math"))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (
            "import os; os.closerange(0, 100)",
            "closed the files through which it answers (let it close only those",
        ),
        (
            "import os, time; os.closerange(0, 100); time.sleep(60)",
            "closed the files through which it answers",
        ),
        ("import os; os._exit(3)", "exited with code 3 before it was ready"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("import nowhere_at_all", "cannot import 'tried_module' (No module named 'nowhere_at_all')"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def judge(:", "cannot import 'tried_module' (invalid syntax"),
    ],
)
def test_whatever_a_module_does_when_it_is_imported_is_said_in_one_line(
    attempt: Callable[..., str], source: str, fault: str
) -> None:
    assert fault in attempt(source)


def test_a_module_that_is_never_imported_is_given_up_and_what_takes_long_is_said(
    attempt: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(child_process, "TELL_AFTER_S", 0.2)
    begun = time.monotonic()
    assert attempt("import time; time.sleep(60)", startup_timeout_s=1.5) == (
        "verifier 'tried_module:judge': its module is not imported after verifier.startup_timeout_s = 1.5 s: have it do "
        "less when it is imported, or raise that"
    )
    assert time.monotonic() - begun < 10
    assert capsys.readouterr().err == (
        "bonfire: verifier 'tried_module:judge' has been importing its module for 0 s; it may take "
        "verifier.startup_timeout_s = 1.5 s\n"
    )


@pytest.mark.parametrize(
    "name", ["..v_ok:score", ".v:score", "a..b:score", "a b:score", "a/b:score", "a:b c", "a\0b:c"]
)
def test_a_name_that_is_no_modules_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="write package.module:name, as after import in Python"):
        import_verifier(name)
