"""What a process does with memory that was freed."""

from __future__ import annotations

import subprocess
import sys

_HOLES = """
import re
from pathlib import Path
import numpy as np
from actors.heap import return_large_blocks

def resident_mb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

if {called}:
    return_large_blocks()
np.ones(30_000_000, np.uint8)  # freed at once: glibc takes its size for the limit from now on
before = resident_mb()
blocks, small = [], []
for _ in range(20):
    blocks.append(np.ones(20_000_000, np.uint8))
    small.append(np.ones(100_000, np.uint8))  # lies behind it and stays
del blocks
print(resident_mb() - before)
"""


def _held_mb(*, called: bool) -> float:
    process = subprocess.run(
        [sys.executable, "-c", _HOLES.format(called=called)], capture_output=True, text=True, check=True
    )
    return float(process.stdout)


def test_large_blocks_go_back_to_the_system_between_small_ones_that_stay() -> None:
    assert _held_mb(called=True) < 50
    assert _held_mb(called=False) > 200, "without it they do not: the test shows nothing"
