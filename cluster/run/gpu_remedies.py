"""What does not fit a GPU is refused, with the changes that would each make it fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config.schema import RunConfig
from cluster.fleet.gpu_memory import Role, Share, num_gpus_needed, shares
from cluster.fleet.needs import described_by, is_from_scratch, settings_of_model
from cluster.run.model_checks import check_divisible
from learner.config import LoraConfig
from learner.model import memory

SMALLEST_KV_MIB = 1024
"""No smaller cache is proposed."""
SMALLEST_RANK = 8
MOST_PARTS = 8
"""Of an engine or a learner that are proposed: GPUs of a node."""


def check_shares(config: RunConfig, gpu_bytes: float, num_gpus: int | None = None) -> None:
    """Raises ValueError, in one line, where a role needs more of a GPU than it is given; it says which changes would do.

    `num_gpus`: that there are; None: it is not known, and may be more than the config takes.
    """
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
    # Workers that `scaling` may add later are not what there is too little for.
    most = None if num_gpus is None else max(num_gpus, num_gpus_needed(config))
    remedies = [_remedy(config, gpu_bytes, most, [share.role for share in group]) for group in groups]
    raise ValueError(f"a GPU of {gpu_bytes / 2**30:.1f} GiB: {', '.join(told)}: {'; and '.join(remedies)}")


def _fits(share: Share, gpu_bytes: float) -> bool:
    return share.needed_bytes <= share.given * gpu_bytes


def _remedy(config: RunConfig, gpu_bytes: float, most: int | None, roles: Sequence[Role]) -> str:
    """Other shares; else the settings, each of which is enough by itself; else all that help."""
    if (settings := _fitting(config, gpu_bytes, most, roles)) is not None:
        return f"set {settings}"
    enough, helping = dict[str, str](), dict[str, None]()
    for role in roles:
        for what, words, updates in _changes(config, role):
            if what in enough or (changed := _changed(config, role, updates)) is None:
                continue
            helping[what] = None
            settings = _fitting(changed, gpu_bytes, most, roles)
            if settings is not None:
                enough[what] = f"{words} {settings}".rstrip()
    if enough:
        return f"set {', or '.join(enough.values())}"
    several = f"no one setting is enough: change several of {', '.join(helping)}, or " if helping else ""
    return f"{several}take a smaller model or a larger GPU"


def _changed(config: RunConfig, role: Role, updates: Mapping[str, Any]) -> RunConfig | None:
    """None where the settings do not go together, or with the model."""
    settings = config.model_dump(exclude_none=True)
    settings[role] |= updates
    try:
        changed = RunConfig.model_validate(settings)
        if not is_from_scratch(changed):
            check_divisible(changed.rollout, settings_of_model(changed), described_by(changed))
        shares(changed, float("inf"))  # the model may have no layer for adapters
    except ValueError:
        return None
    return changed


def _fitting(config: RunConfig, gpu_bytes: float, most: int | None, roles: Sequence[Role]) -> str | None:
    """The shares, as overrides, with which these roles have enough; empty where they have. None: nothing is, or it takes more
    than the `most` GPUs that there are.
    """
    found = [share for share in shares(config, gpu_bytes) if share.role in roles]
    lacking = [share for share in found if not _fits(share, gpu_bytes)]
    if not lacking:
        return "" if most is None or num_gpus_needed(config) <= most else None
    # With "auto" a small share is one in which the learner recomputes.
    least = [share for share in shares(config, 0.0) if share.role in roles and share.given < 1]
    needed = {share.role: share.needed(gpu_bytes) for share in least}
    if any(share.given >= 1 for share in lacking) or any(share > 1 for share in needed.values()):
        return None
    if num_gpus_needed(_with_shares(config, needed)) > (num_gpus_needed(config) if most is None else most):
        return None
    if needed.keys() == {"rollout", "learner"} and not config.verifier.num_gpus:
        left = round(
            1 - config.most_workers[0] * needed["rollout"], 2
        )  # of a GPU that they have to themselves
        needed["learner"] = max(needed["learner"], left)
    return " ".join(f"{role}.num_gpus={share:g}" for role, share in needed.items())


def _with_shares(config: RunConfig, num_gpus: Mapping[Role, float]) -> RunConfig:
    sections: dict[str, Any] = {
        role: getattr(config, role).model_copy(update={"num_gpus": share}) for role, share in num_gpus.items()
    }
    return config.model_copy(update=sections)


def _changes(config: RunConfig, role: Role) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Changes that lower what a role needs: the setting, the override, its value; of a setting the least change first."""
    rollout, learner = config.rollout, config.learner

    def change(name: str, value: Any) -> tuple[str, str, dict[str, Any]]:
        return f"{role}.{name}", f"{role}.{name}={value}", {name: value}

    if role == "rollout":
        for kv_cache_mib in _halves(rollout.kv_cache_mib, max(SMALLEST_KV_MIB, _mib_of_a_sequence(config))):
            yield change("kv_cache_mib", kv_cache_mib)
        if rollout.num_gpus == 1:
            for parts in range(rollout.tensor_parallel + 1, MOST_PARTS + 1):
                yield change("tensor_parallel", parts)
        else:
            yield change("num_gpus", 1)
        return
    if learner.recompute == "never":
        yield change("recompute", "auto")
    for positions in _halves(learner.micro_batch_tokens, config.rollout.max_model_len):
        yield change("micro_batch_tokens", positions)
    is_made = (
        config.sft is not None and Path(config.model).exists()
    )  # by [sft], with the settings that follow
    if learner.weights_dtype == "float32" and learner.dtype == "bfloat16" and not is_made:
        yield change("weights_dtype", "bfloat16")
    if learner.lora is None and not is_made:
        rank = LoraConfig().rank
        yield "learner.lora", f"learner.lora.rank={rank}", {"lora": {"rank": rank}}
    elif learner.lora is not None and not is_made:
        for rank in _halves(learner.lora.rank, SMALLEST_RANK):
            lora = learner.lora.model_dump() | {"rank": rank}
            yield "learner.lora.rank", f"learner.lora.rank={rank}", {"lora": lora}
    if learner.num_gpus == 1:
        for ranks in range(learner.ranks + 1, MOST_PARTS + 1):
            yield change("ranks", ranks)
    else:
        yield change("num_gpus", 1)


def _mib_of_a_sequence(config: RunConfig) -> int:
    """KV cache of one that is as long as may be, without which an engine does not start; 0 where nothing tells."""
    if is_from_scratch(config):
        return 0
    settings = settings_of_model(config)
    heads = settings.get("num_attention_heads") or 0
    width = settings.get("head_dim") or (settings.get("hidden_size") or 0) // max(heads, 1)
    of_token = (
        2 * (settings.get("num_hidden_layers") or 0) * (settings.get("num_key_value_heads") or heads) * width
    )
    size = memory.bytes_of(config.rollout.dtype)
    return -(-config.rollout.max_model_len * of_token * size // 2**20)


def _halves(number: int, smallest: int) -> Iterator[int]:
    number //= 2
    while number >= smallest:
        yield number
        number //= 2
