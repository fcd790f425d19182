"""What a run reserves and what this machine has, before a cluster is started on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.commands.train import new_run_dir
from cluster.config.parse import load_config, parse_config
from cluster.fleet import capacity
from cluster.fleet.capacity import check_private_has, resources_here
from tests.shared.paths import ROOT
from tests.shared.refusals import refusal


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What Ray would find: CPUs alone, unless a test adds something."""
    here = {"CPU": 2.0, "memory": 1e9}
    monkeypatch.setattr(capacity, "resources_here", lambda: here)
    return here


def config(**sections: Any) -> Any:
    return parse_config({"model": "m", **sections})


def test_ray_tells_what_it_would_offer_without_being_started() -> None:
    here = resources_here()
    assert here["CPU"] == 1 and here["node:__internal_head__"] == 1
    assert "gpu_80g" not in here


def test_cpus_are_never_refused_for_workers_share_them(machine: dict[str, float]) -> None:
    check_private_has(config(rollout={"num_cpus": 64.0, "workers": 8}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"rollout": {"num_gpus": 1}},
            (
                "rollout.num_gpus: the workers reserve 1 GPU (rollout 1), and a Ray cluster of this machine alone has 0: set "
                "that to 0 to compute on the CPU, or join a cluster that has more with --address HOST:PORT"
            ),
        ),
        (
            {"rollout": {"resources": {"gpu_80g": 1}}},
            (
                "rollout.resources: the workers reserve 1 'gpu_80g' (rollout 1), and a Ray cluster of this machine alone has "
                "0: remove it, or join a cluster that has more with --address HOST:PORT"
            ),
        ),
        (
            {"learner": {"resources": {"a": 2}, "ranks": 3}},
            "learner.resources: the workers reserve 6 'a' (learner 6)",
        ),
        (
            {"verifier": {"num_gpus": 0.5, "workers": 3}},
            "verifier.num_gpus: the workers reserve 1.5 GPU (verifier 1.5)",
        ),
    ],
)
def test_what_this_machine_never_has_is_refused_with_what_is_there(
    machine: dict[str, float], sections: dict[str, Any], message: str
) -> None:
    assert refusal(lambda: check_private_has(config(**sections))).startswith(message)


def test_what_is_there_is_shared_by_all_roles(machine: dict[str, float]) -> None:
    machine["GPU"] = 2.0
    both = config(rollout={"num_gpus": 1}, learner={"num_gpus": 1})
    check_private_has(both)
    three = config(rollout={"num_gpus": 1, "workers": 2}, learner={"num_gpus": 1})
    assert refusal(lambda: check_private_has(three)) == (
        "rollout.num_gpus, learner.num_gpus: the workers reserve 3 GPU (rollout 2, learner 1), and a Ray cluster of this "
        "machine alone has 2: lower the numbers of workers or what each reserves, or join a cluster that has more with "
        "--address HOST:PORT (for a plan, --dry-run, it need not be there)"
    )
    check_private_has(three, trains=False)  # an evaluation has no learner


def test_the_example_for_a_gpu_is_refused_at_once_on_a_laptop(machine: dict[str, float]) -> None:
    assert "set that to 0 to compute on the CPU" in refusal(
        lambda: check_private_has(load_config(ROOT / "examples" / "gsm8k.toml"))
    )


@pytest.mark.parametrize(
    ("run_dir", "fault"),
    [
        ("{file}", "run_dir = '{file}': {file} is a file: choose another directory"),
        ("{file}/a/b", "run_dir = '{file}/a/b': {file} is a file: choose another directory"),
        ("x" * 300, "can be no directory (File name too long): choose another"),
        ("a\0b", "can be no directory (embedded null byte): choose another"),
    ],
)
def test_a_run_directory_that_cannot_be_made_is_refused_first(
    tmp_path: Path, run_dir: str, fault: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("")
    wanted = run_dir.replace("{file}", str(file))
    assert fault.replace("{file}", str(file)) in refusal(lambda: new_run_dir(config(run_dir=wanted), "name"))


def test_shares_that_add_up_but_fit_no_gpu_are_refused(machine: dict[str, float]) -> None:
    machine["GPU"] = 2.0
    check_private_has(config(rollout={"num_gpus": 0.5, "workers": 2}, learner={"num_gpus": 0.55}))
    three = config(rollout={"num_gpus": 0.7, "workers": 2}, learner={"num_gpus": 0.55})
    assert refusal(lambda: check_private_has(three)) == (
        "the workers' shares (2 x rollout 0.7, 1 x learner 0.55) need 3 GPUs, since each is of one GPU, and 2 are here: "
        "lower one of rollout.num_gpus, learner.num_gpus until they fit"
    )
