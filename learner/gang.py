"""Processes that train one model together: how they find each other, and the numbers they exchange.

What they exchange of the model itself is in learner/model/sharding.py.
"""

from __future__ import annotations

import hashlib
import math
import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import psutil
import torch
from torch import distributed


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """One rank's view of its gang. Every method is collective; alone, it gives back what it got."""

    rank: int = 0
    size: int = 1

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Elementwise over the ranks, in their order: the same bits on each."""
        return values if self.size == 1 else self.gather(values).sum(axis=0)

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Elementwise over the ranks; nan where any rank has nan."""
        return values if self.size == 1 else self.gather(values).max(axis=0)

    def norm(self, own: float) -> float:
        """Of a vector of which each rank has a part of norm `own`."""
        return own if self.size == 1 else math.sqrt(self.sum(np.array(own**2)))

    def gather(self, values: np.ndarray) -> np.ndarray:
        """[size, *shape]: what each rank gave, of one shape and dtype, in order of ranks."""
        if self.size == 1:
            return values[None]
        ours = torch.from_numpy(np.array(values)).contiguous()
        everyones = [torch.empty_like(ours) for _ in range(self.size)]
        distributed.all_gather(everyones, ours)
        return torch.stack(everyones).numpy()

    def num_here(self) -> int:
        """Ranks on this rank's machine, itself included."""
        machine = np.frombuffer(hashlib.sha256(socket.gethostname().encode()).digest()[:8], np.int64)
        return int((self.gather(machine)[:, 0] == machine[0]).sum())


ALONE = Gang()


def open_store(address: str, size: int, timeout_s: float) -> distributed.TCPStore:
    """Where a gang meets: a store of this process, listening on `address` only, at a port that was free."""
    listener = socket.create_server((address, 0))
    return distributed.TCPStore(
        address,
        listener.getsockname()[1],
        size,
        is_master=True,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def connect_store(address: str, port: int, size: int, timeout_s: float) -> distributed.TCPStore:
    """Another process's store."""
    return distributed.TCPStore(address, port, size, timeout=timedelta(seconds=timeout_s))


def join(
    store: distributed.Store, *, rank: int, size: int, address: str, device: str, timeout_s: float
) -> Gang:
    """Become a rank of the gang that meets at `store`; returns when all have come. Collective.

    `address` is this machine's own, by which the others reach it; no other interface is listened on, but by NCCL where
    NCCL_SOCKET_IFNAME names one already.
    A collective that takes longer than `timeout_s` raises RuntimeError.
    """
    interface = _interface(address)
    if interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    return Gang(rank=rank, size=size)


def _interface(address: str) -> str | None:
    """The network interface that has the address; None where none says so, as behind a translation."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return name
    return None
