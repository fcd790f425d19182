"""Of a plan what memory it takes, on the machines and on a GPU."""

from __future__ import annotations

import psutil
from rich.console import Console

from cluster.config.schema import RunConfig
from cluster.fleet.gpu_memory import learner_bytes, shares
from cluster.fleet.needs import largest_pass, memory_needed
from cluster.run import preflight

GIB = 2**30


def show_memory(console: Console, config: RunConfig, *, local: bool) -> None:
    console.print("[bold]memory of the machines[/bold] (estimate)")
    available = psutil.virtual_memory().available
    needed = memory_needed(config, available if local else None)
    for role, of_role in needed.items():
        console.print(f"  {role:18} {of_role / GIB:5.1f} GiB")
    here_text = f", {available / GIB:.1f} GiB available here" if local else ""
    console.print(f"  {'all':18} {sum(needed.values()) / GIB:5.1f} GiB{here_text}")
    if not config.learner.num_gpus:
        largest, recompute = largest_pass(config, available if local else None)
        console.print(f"  {'(a learner pass':18} {largest / GIB:5.1f} GiB, {_how(recompute)})")


def show_gpu_memory(console: Console, config: RunConfig, *, local: bool) -> None:
    """Nothing where neither engines nor the learner are on one."""
    if not (config.rollout.num_gpus or config.learner.num_gpus):
        return
    gpu_bytes = preflight.gpu_bytes_of(config, local=local)
    if gpu_bytes is None:
        console.print(
            "[bold]memory of a GPU[/bold] (estimate; not checked: set gpu_memory_gib to what one has)",
            soft_wrap=True,
        )
    else:
        console.print(f"[bold]memory of a GPU[/bold] of {gpu_bytes / GIB:.1f} GiB (estimate)")
    size = float("inf") if gpu_bytes is None else gpu_bytes
    for share in shares(config, size):
        given = "" if gpu_bytes is None else f" of {share.given * gpu_bytes / GIB:.1f}"
        how = ""
        if share.role == "learner":
            how = f", {_how(learner_bytes(config, share.given * size)[1])}"
        console.print(f"  {share.role:18} {share.needed_bytes / GIB:5.1f} GiB{given}{how}")
    if config.verifier.num_gpus:
        console.print(f"  {'verifier':18} not estimated: what its models take")


def _how(recompute: bool) -> str:
    return "recomputing its blocks" if recompute else "keeping its blocks"
