"""Buckets that other processes of an engine map."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from actors.weights.shared_memory import SharedBuckets
from tests.shared.paths import ROOT

BUCKETS = [np.arange(200_000, dtype=np.uint8), np.zeros(0, np.uint8), np.full(7, 3, np.uint8)]
SUM_OF_ALL = """
import pickle, sys
mapped = pickle.loads(sys.stdin.buffer.read()).mapped()
print([int(one.sum()) for one in mapped], any(one.flags.writeable for one in mapped))
"""


def test_another_process_reads_them_and_cannot_write_to_them():
    shared = SharedBuckets.of(BUCKETS)
    done = subprocess.run(
        [sys.executable, "-c", SUM_OF_ALL],
        input=pickle.dumps(shared),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    shared.close()
    assert done.stdout.decode().strip() == f"{[int(one.sum()) for one in BUCKETS]} False"


def test_what_was_mapped_stays_when_they_are_closed_and_is_a_copy():
    bucket = BUCKETS[0].copy()
    shared = SharedBuckets.of([bucket])
    (mapped,) = shared.mapped()
    shared.close()
    bucket[:] = 0
    assert np.array_equal(mapped, BUCKETS[0])
    with pytest.raises(OSError):
        shared.mapped()


def test_no_file_stays_open():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        shared = SharedBuckets.of(BUCKETS)
        shared.mapped()
        shared.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
