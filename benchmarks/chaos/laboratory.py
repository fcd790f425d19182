"""What a chaos run needs, put up and taken down: network, nodes, run, watch. And what this machine does not allow."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.chaos.cluster import NODES, Cluster
from benchmarks.chaos.driver import NAME, Driver
from benchmarks.chaos.network import Network, why_not_separate
from benchmarks.chaos.processes import Family
from benchmarks.chaos.watch import Watch
from benchmarks.chaos.world import World
from cluster.config.schema import TrainConfig

DISK_MIB = 512


def what_is_missing() -> dict[str, str]:
    """What a fault may need, and why it cannot be had here."""
    is_root = os.geteuid() == 0
    checks = "max_recoveries" in TrainConfig.model_fields
    found = {
        "namespaces": why_not_separate(),
        "mount": "" if is_root else "mounting a small disk needs root",
        "sandbox": "" if _bubblewrap_runs() else "bubblewrap cannot run here",
        "checked checkpoints": "" if checks else "this version does not check its checkpoints",
    }
    return {what: why for what, why in found.items() if why}


@contextmanager
def laboratory(directory: Path, *, missing: Mapping[str, str], seed: int) -> Iterator[World]:
    """The nodes are up, the run is not started yet: `World.mend` does. Logs, and the run in the end, lie in `directory`.

    On the way out every process ends, network and disk go.
    """
    with ExitStack() as stack:
        ray_dir = Path(stack.enter_context(TemporaryDirectory(prefix="bf", dir="/tmp")))
        disk = None if "mount" in missing else stack.enter_context(_small_disk(directory / "disk"))
        run_dir = (disk or directory) / NAME
        stack.callback(_keep, run_dir, directory / NAME)
        family = Family()
        network = stack.enter_context(Network(list(NODES), separate="namespaces" not in missing))
        stack.callback(family.end)
        cluster = Cluster(family, network, ray_dir=ray_dir, logs=directory)
        driver = Driver(family, cluster, directory, run_dir=run_dir)
        driver.prepare(reward="countdown" if "sandbox" in missing else "python_tests")
        cluster.start()
        watch = Watch(family, cluster, NAME, directory / "watch.log")
        yield World(
            family=family,
            cluster=cluster,
            driver=driver,
            watch=watch,
            disk=disk,
            seed=seed,
        )


@contextmanager
def _small_disk(path: Path) -> Iterator[Path]:
    """A file system of DISK_MIB. Needs root."""
    path.mkdir(parents=True)
    size = f"size={DISK_MIB}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)], check=True, timeout=10)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=10)
        path.rmdir()


def _keep(run_dir: Path, kept: Path) -> None:
    """Copy the run directory from the disk that goes."""
    if run_dir != kept and run_dir.exists():
        shutil.copytree(run_dir, kept)


def _bubblewrap_runs() -> bool:
    command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0
    except OSError:
        return False
