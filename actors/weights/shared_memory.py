"""Buckets of weights for other processes of this machine, which hold parts of one engine."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class SharedBuckets:
    """Where other processes find the buckets: open files of a process, which have no name and lie in memory alone.

    Of the same user, as the parts of an engine are. What was mapped stays when the files are closed.
    """

    pid: int
    files: tuple[int, ...]
    """File descriptors of that process."""
    sizes: tuple[int, ...]
    """Bytes of each."""

    @classmethod
    def of(cls, buckets: Sequence[np.ndarray]) -> SharedBuckets:
        """A copy of them; to be closed by this process once all others have mapped it. Linux only."""
        files: list[int] = []
        try:
            for bucket in buckets:
                files.append(os.memfd_create("bonfire-weights"))
                os.truncate(files[-1], bucket.nbytes)
                if bucket.nbytes:
                    with mmap.mmap(files[-1], bucket.nbytes) as memory:
                        np.frombuffer(memory, np.uint8)[:] = bucket.view(np.uint8)
        except BaseException:
            _close(files)
            raise
        return cls(os.getpid(), tuple(files), tuple(bucket.nbytes for bucket in buckets))

    def mapped(self) -> tuple[np.ndarray, ...]:
        """The buckets, read-only, nothing copied."""
        return tuple(map(self._mapped, self.files, self.sizes))

    def close(self) -> None:
        _close(self.files)

    def _mapped(self, file: int, size: int) -> np.ndarray:
        if not size:
            return np.frombuffer(b"-", np.uint8)[:0]
        opened = os.open(f"/proc/{self.pid}/fd/{file}", os.O_RDONLY)
        try:
            return np.frombuffer(mmap.mmap(opened, size, prot=mmap.PROT_READ), np.uint8)
        finally:
            os.close(opened)


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)
