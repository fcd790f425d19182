"""How a command's process ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

_BUSY = """
import atexit, threading
from cluster.commands.cli import end_process

def work():
    while True:
        sorted(range(1000))

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
atexit.register(lambda: print("second"))
atexit.register(lambda: print("first"))
print("before")
end_process({code})
"""


@pytest.mark.parametrize("code", [0, 130])
def test_it_does_what_is_to_be_done_at_its_end_and_then_ends_with_its_code_whatever_its_threads_do(
    code,
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _BUSY.format(code=code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "before\nfirst\nsecond\n", "")
