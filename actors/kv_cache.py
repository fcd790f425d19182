"""What an update of the weights does to the KV of unfinished sequences: `rollout.kv_after_update`.

vLLM's own reset takes all of it or nothing, so this reaches into its scheduler, between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from actors.config import KvAfterUpdate


def recompute(scheduler: Any, version: int) -> int:
    """Drop all KV: what runs is prefilled again under the new weights, so that later tokens are exactly theirs."""
    num_tokens = _num_tokens_held(scheduler, scheduler.running)
    if not scheduler.reset_prefix_cache(reset_running_requests=True):
        raise RuntimeError("vLLM kept its prefix cache after a weight update: stale KV would be used")
    return num_tokens


def keep(scheduler: Any, version: int) -> int:
    """What runs goes on with the KV it has. No sequence without a token yet gets any of an older version.

    Requests that come later carry their version as salt. Those that wait were salted with an older one, under which
    they would find the prompt of their own group; and one whose prompt was prefilled in part begins anew.
    """
    unbegun = [request for request in scheduler.running if not request.num_output_tokens]
    num_tokens = _num_tokens_held(scheduler, unbegun)
    for request in reversed(unbegun):
        scheduler.running.remove(request)
        scheduler._preempt_request(request, time.monotonic(), drop_stale_output=True)
        scheduler.prev_step_scheduled_req_ids.discard(request.request_id)
    for request in scheduler.waiting:
        if not request.num_output_tokens:
            request.cache_salt = salt(version)
            request.block_hashes.clear()
            request.update_block_hashes()
    return num_tokens


AFTER_UPDATE: dict[KvAfterUpdate, Callable[[Any, int], int]] = {"recompute": recompute, "keep": keep}
"""Called with vLLM's scheduler and the new version; returns how many tokens have to be computed again."""


def salt(version: int) -> str:
    """What keeps the prefixes of a version apart from those of others."""
    return str(version)


def _num_tokens_held(scheduler: Any, requests: list[Any]) -> int:
    """Tokens whose KV these requests hold; a block that several share counts once, as it is computed once again."""
    manager = scheduler.kv_cache_manager
    groups = manager.kv_cache_config.kv_cache_groups
    if not groups:
        return 0
    block_tokens = groups[0].kv_cache_spec.block_size
    counted: set[int] = set()
    num_tokens = 0
    for request in requests:
        blocks, *_ = manager.get_blocks(request.request_id).blocks
        starts = range(0, request.num_computed_tokens, block_tokens)
        for start, block in zip(starts, blocks, strict=False):
            if block.is_null or block.block_id not in counted:
                counted.add(block.block_id)
                num_tokens += min(block_tokens, request.num_computed_tokens - start)
    return num_tokens
