"""What the tests share: a tiny policy, one engine in this process, one local Ray cluster."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.register_assert_rewrite("tests.shared")  # before its first import

from actors.environment import engine_environment
from cluster.fleet.ray_cluster import set_ray_environment
from tests.shared.engine import ENGINE

os.environ.update(engine_environment(ENGINE))  # read once, when torch is imported
set_ray_environment(local=True)
os.environ["RAY_worker_niceness"] = "0"  # with 15, Ray's own, an engine starves beside other tests
gc.disable()  # half of the time of a collection went into looking for garbage among a million objects that stay


RUN_TOGETHER = {
    "tests/cluster/run/test_faulty_runs.py": "",
    "tests/cluster/evaluation/test_evaluation.py": "engine",
    "tests/actors/test_judge.py": "engine",
    "tests/actors/test_kv_after_update.py": "engine",
    "tests/actors/test_engine_arguments.py": "engine",
    "tests/actors/test_engine.py": "engine",
    "tests/cluster/run/test_synchronous_runs.py": "runs",
    "tests/cluster/run/test_held_out_runs.py": "runs",
    "tests/cluster/evaluation/test_base_scores.py": "runs",
    "tests/cluster/run/test_parity_faults.py": "",
    "tests/cluster/run/test_published_adapters.py": "",
    "tests/learner/test_workers.py": "cluster",
    "tests/cluster/run/test_divided_groups.py": "cluster",
    "tests/cluster/run/test_engines_in_parts.py": "cluster",
    "tests/cluster/run/test_alarms.py": "cluster",
    "tests/cluster/run/test_by_reference.py": "cluster",
    "tests/cluster/run/test_launch.py": "cluster",
    "tests/cluster/run/test_base_model.py": "cluster",
    "tests/cluster/run/test_monitoring.py": "cluster",
    "tests/cluster/fleet/test_learning.py": "cluster",
    "tests/cluster/fleet/test_verifying.py": "cluster",
    "tests/cluster/fleet/test_elastic.py": "cluster",
    "tests/cluster/fleet/test_nodes.py": "cluster",
    "tests/learner/model/test_sharding.py": "warm",
    "tests/cluster/commands/test_cli.py": "warm",
    "tests/cluster/commands/test_fine_tuning.py": "warm",
    "tests/cluster/jobs/test_jobs.py": "",
    "tests/cluster/fleet/test_ray_cluster.py": "",
    "tests/cluster/fleet/test_watcher.py": "",
    "tests/verifiers/math/test_math.py": "",
    "tests/verifiers/process/test_killable.py": "",
    "tests/verifiers/sandbox/test_sandbox.py": "",
}
"""Files that one worker runs one after the other, to share an engine, a cluster, or a warm process (`tests.shared.warm`).

Every file that uses the session's engine or cluster is here. These take longest, so they are begun first, in this order.
What shares with nobody ("") is so long that it is worth a cluster of its own, or waits so much that it should begin early.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what needs an engine or a cluster first, as RUN_TOGETHER says, and mark it."""
    order = {file: place for place, file in enumerate(RUN_TOGETHER)}
    for item in items:
        if {"engine", "ray_cluster"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.cluster)
    items.sort(
        key=lambda item: (
            order.get(_file(item.nodeid), len(order)),
            item.get_closest_marker("ends_engine") is not None,
        )
    )


def pytest_collection_finish() -> None:
    """From now on there may be garbage, but not among what was made so far."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        atexit.register(os._exit, 0)  # not to take a million objects apart, one by one, after all is told
    else:
        gc.unfreeze()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Have failures named as they happen, not only at the end."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailureLines(terminal))


class FailureLines:
    """A line for each failure at once: the test, and the last line of why."""

    def __init__(self, terminal: Any) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message.splitlines()[0] if crash else str(report.longrepr).strip().splitlines()[-1]
            self._terminal.write_line(f"\nFAILED {report.nodeid} ({report.when}): {why}", red=True)
            self._terminal.flush()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cluster") and _file(item.nodeid) not in RUN_TOGETHER:
        pytest.fail(
            "uses an engine or a cluster: name its file in RUN_TOGETHER of tests/conftest.py", pytrace=False
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is run by one worker. (`--dist loadgroup` would do it by marks, but not with pytest 9.2: xdist's #1386.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return RUN_TOGETHER.get(_file(nodeid)) or _file(nodeid)

        def remove_node(self, node: Any) -> str | None:
            """As xdist's, but a test that ended its process is not run again, and the rest of its files is."""
            units = self.assigned_work.pop(node)
            crashed = next((test for unit in units.values() for test, done in unit.items() if not done), None)
            if crashed is not None:
                units[self._split_scope(crashed)][crashed] = True
                self.workqueue.update(
                    {scope: unit for scope, unit in units.items() if not all(unit.values())}
                )
                for other in self.assigned_work:
                    self._reschedule(other)
            return crashed

    config.option.loadscopereorder = False  # else files with many tests would come first
    return Scheduling(config, log)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A countdown model of random weights whose next-token distribution is far from uniform."""
    from benchmarks.chaos.driver import make_model

    path = tmp_path_factory.mktemp("tiny") / "model"
    make_model(path)
    return path


@pytest.fixture(scope="session")
def engine(tiny_model: Path) -> Iterator:
    """The engine of ENGINE, with <eos> as its stop token. Tests leave whatever version they like in it.

    Where Numba is loaded before, as by a module of a user's, it starts all the same.
    """
    import llvmlite.binding  # noqa: F401

    from actors.engine import Engine

    environment = dict(os.environ)
    engine = Engine(str(tiny_model), ENGINE, stop_token_ids=[1])
    os.environ.clear()
    os.environ.update(environment)  # vLLM sets LD_PRELOAD and more, for processes it might start
    yield engine
    engine.shutdown()


@pytest.fixture(scope="session")
def user_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which the workers of `ray_cluster` can import."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="session")
def ray_cluster(user_modules: Path) -> Iterator[str]:
    """Address of a Ray cluster on this machine alone: loopback, its own token, 16 CPUs it does not have."""
    import ray

    directory = Path(tempfile.mkdtemp(prefix="bf", dir="/tmp"))  # Unix sockets want short paths
    token = directory / "token"
    token.write_text("bonfire-tests-" + os.urandom(16).hex())
    token.chmod(0o600)
    changed = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PYTHONPATH": str(user_modules),
        "RAY_prestart_worker_first_driver": "0",  # our workers have environments of their own: none would be used
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    others = psutil.Process().children()
    context = ray.init(
        address="local",
        num_cpus=16,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=False,
        _temp_dir=str(directory),
        namespace="tests",
    )
    started = [one for one in psutil.Process().children() if one not in others]
    yield context.address_info["address"]
    processes = list(started)
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes += one.children(recursive=True)
    ray.shutdown()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _, left = psutil.wait_procs(processes, timeout=20)
    assert not left
    shutil.rmtree(directory, ignore_errors=True)
