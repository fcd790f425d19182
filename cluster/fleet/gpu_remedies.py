"""What does not fit a GPU is refused, with the changes that would each make it fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cluster.config.schema import RunConfig
from cluster.fleet.gpu_memory import Role, Share, shares
from learner.config import LoraConfig

SMALLEST_KV_MIB = 1024
"""No smaller cache is proposed."""
SMALLEST_RANK = 8
MOST_PARTS = 8
"""Of an engine or a learner that are proposed: GPUs of a node."""


def check_shares(config: RunConfig, gpu_bytes: float) -> None:
    """Raises ValueError, in one line, where a role needs more of a GPU than it is given; it says which changes would do."""
    found = shares(config, gpu_bytes)
    lacking = [share for share in found if not _fits(share, gpu_bytes)]
    if not lacking:
        return
    divided = [share for share in found if share.given < 1]
    groups = [[share] for share in lacking if share.given >= 1]
    if any(share in divided for share in lacking):
        groups.append(divided)
    told = [
        f"{share.role} needs about {share.needed_bytes / 2**30:.1f} GiB and {share.role}.num_gpus = {share.given:g} gives "
        f"{share.given * gpu_bytes / 2**30:.1f}"
        for group in groups
        for share in group
    ]
    remedies = [_remedy(config, gpu_bytes, [share.role for share in group]) for group in groups]
    raise ValueError(f"a GPU of {gpu_bytes / 2**30:.1f} GiB: {', '.join(told)}: {'; and '.join(remedies)}")


def _fits(share: Share, gpu_bytes: float) -> bool:
    return share.needed_bytes <= share.given * gpu_bytes


def _remedy(config: RunConfig, gpu_bytes: float, roles: Sequence[Role]) -> str:
    """Other shares; else the settings, each of which is enough by itself; else all that help."""
    if (settings := _fitting(config, gpu_bytes, roles)) is not None:
        return f"set {settings}"
    enough, helping = dict[str, str](), dict[str, None]()
    for role in roles:
        for what, words, changed in _changes(config, role):
            helping[what] = None
            settings = _fitting(changed, gpu_bytes, roles)
            if settings is not None and what not in enough:
                enough[what] = f"{words} {settings}".rstrip()
    if enough:
        return f"set {', or '.join(enough.values())}"
    several = f"no one setting is enough: change several of {', '.join(helping)}, or " if helping else ""
    return f"{several}take a smaller model or a larger GPU"


def _fitting(config: RunConfig, gpu_bytes: float, roles: Sequence[Role]) -> str | None:
    """The shares, as overrides, with which these roles have enough; empty for GPUs of their own. None: nothing is."""
    found = [share for share in shares(config, gpu_bytes) if share.role in roles]
    lacking = [share for share in found if not _fits(share, gpu_bytes)]
    if not lacking:
        return ""
    if any(share.given >= 1 for share in lacking):
        return None
    num_rollouts, num_verifiers = config.most_workers
    workers = {"rollout": num_rollouts, "learner": 1}
    needed = {share.role: share.needed(gpu_bytes) for share in found if share.given < 1}
    taken = sum(workers[role] * share for role, share in needed.items())
    others = num_verifiers * config.verifier.num_gpus if config.verifier.num_gpus < 1 else 0.0
    if taken + others > 1:
        return None
    return " ".join(f"{role}.num_gpus={share:g}" for role, share in needed.items())


def _changes(config: RunConfig, role: Role) -> Iterator[tuple[str, str, RunConfig]]:
    """Changes that lower what a role needs: the setting, the override, the config; of a setting the least change first."""
    rollout, learner = config.rollout, config.learner

    def change(setting: str, **fields: Any) -> tuple[str, str, RunConfig]:
        section = getattr(config, role).model_copy(update=fields)
        words = " ".join(f"{role}.{name}={value}" for name, value in fields.items() if name != "lora")
        return f"{role}.{setting}", words, config.model_copy(update={role: section})

    if role == "rollout":
        kv_cache_mib = rollout.kv_cache_mib // 2
        while kv_cache_mib >= SMALLEST_KV_MIB:
            yield change("kv_cache_mib", kv_cache_mib=kv_cache_mib)
            kv_cache_mib //= 2
        parts = 2 * rollout.tensor_parallel
        while parts <= MOST_PARTS and rollout.num_gpus == 1 and not rollout.adapter_rank:
            yield change("tensor_parallel", tensor_parallel=parts)
            parts *= 2
        if rollout.num_gpus < 1:
            yield change("num_gpus", num_gpus=1)
        return
    if learner.recompute == "never":
        yield change("recompute", recompute="auto")
    positions = learner.micro_batch_tokens // 2
    while positions >= config.rollout.max_model_len:
        yield change("micro_batch_tokens", micro_batch_tokens=positions)
        positions //= 2
    if learner.weights_dtype == "float32" and learner.dtype == "bfloat16":
        yield change("weights_dtype", weights_dtype="bfloat16")
    if learner.lora is None:
        lora = LoraConfig()
        _, _, changed = change("lora", lora=lora)
        yield "learner.lora", f"learner.lora.rank={lora.rank}", changed
    else:
        rank = learner.lora.rank // 2
        while rank >= SMALLEST_RANK:
            lora = learner.lora.model_copy(update={"rank": rank})
            _, _, changed = change("lora", lora=lora)
            yield "learner.lora.rank", f"learner.lora.rank={rank}", changed
            rank //= 2
    ranks = 2 * learner.ranks
    while ranks <= MOST_PARTS and learner.num_gpus == 1:
        yield change("ranks", ranks=ranks)
        ranks *= 2
    if learner.num_gpus < 1:
        yield change("num_gpus", num_gpus=1)
