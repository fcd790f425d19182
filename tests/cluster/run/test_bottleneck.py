"""What a run is said to be limited by."""

from __future__ import annotations

import pytest

from cluster.run.bottleneck import Stages, describe

SAMPLING = {
    "wait_share": 0.6, "verify_share": 0.05, "fill": 0.9, "has_room": False, "capacity": 128.0, "max_num_seqs": 128,
    "recomputed": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "stage", "remedy"),
    [
        ({}, "sampling", "rollout.workers"),
        ({"wait_share": 0.05}, "learning", "learner.ranks"),
        ({"verify_share": 0.5}, "verifying", "verifier.workers"),
        ({"fill": 0.2, "has_room": True}, "staleness", "train.max_staleness = 1"),
        ({"fill": 0.2}, "sampling", "rollout.workers"),
        ({"fill": 0.8, "has_room": True}, "sampling", "rollout.workers"),
        ({"recomputed": 0.7}, "sampling", "rollout.kv_after_update"),
        ({"fill": 0.5, "capacity": 65.0}, "sampling", "rollout.kv_cache_mib"),
        ({"fill": 0.3, "capacity": 38.0, "has_room": True}, "sampling", "rollout.kv_cache_mib"),
        ({"fill": 0.2, "has_room": True, "wait_share": 0.05}, "learning", "learner.ranks"),
    ],
)
def test_the_stage_that_others_wait_for_is_named_with_its_remedy(changes, stage, remedy):
    said = describe(Stages(**{**SAMPLING, **changes}), max_staleness=1)
    assert said.startswith(f"{stage} (") and remedy in said
