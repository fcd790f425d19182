"""What the tests share: a tiny policy, one engine in this process, one local Ray cluster."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors.engine import engine_environment
from cluster.fleet.ray_cluster import set_ray_environment
from tests.shared.engine import ENGINE

os.environ.update(engine_environment(ENGINE))  # read once, when torch is imported
set_ray_environment(local=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The engine is shared by the whole session, so the test that ends it comes last."""
    items.sort(key=lambda item: item.get_closest_marker("ends_engine") is not None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A countdown model of random weights whose next-token distribution is far from uniform."""
    from benchmarks.chaos.driver import make_model

    path = tmp_path_factory.mktemp("tiny") / "model"
    make_model(path)
    return path


@pytest.fixture(scope="session")
def engine(tiny_model: Path) -> Iterator:
    """The engine of ENGINE, with <eos> as its stop token. Tests leave whatever version they like in it."""
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
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    others = psutil.Process().children(recursive=True)
    context = ray.init(
        address="local",
        num_cpus=16,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=False,
        _temp_dir=str(directory),
        namespace="tests",
    )
    yield context.address_info["address"]
    processes = [one for one in psutil.Process().children(recursive=True) if one not in others]
    ray.shutdown()
    _, left = psutil.wait_procs(processes, timeout=20)
    assert not left
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    shutil.rmtree(directory, ignore_errors=True)
