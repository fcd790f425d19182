"""The policy: a causal language model from disk, and the log-probs it gives to sampled tokens.

Shapes: `R` rows of `L` positions, `T` completion tokens, `V` vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from learner.step.batch import PackedBatch

MAX_LOGITS = 2**26
"""Logits alive at a time, in elements: 256 MiB of float32."""


def resolve_model(model: str) -> Path:
    """The directory of a local checkpoint or hub id. Raises ValueError naming one that is neither."""
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(
                f"model = {model!r} has no config.json: name a directory written by save_pretrained"
            )
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted, unwanted = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"], ["consolidated*", "*/*"]
    try:
        return Path(snapshot_download(model, allow_patterns=wanted, ignore_patterns=unwanted))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"model = {model!r} is neither a directory nor a hub id that can be downloaded "
            f"({type(error).__name__}): name an existing directory, or fetch the model first"
        ) from error


def load_model(model: str, device: str = "cpu") -> Any:
    """Float32 weights, in inference mode (no dropout) but with gradients.

    Raises ValueError for a missing or damaged checkpoint, and for an architecture on which packing
    or `token_logprobs` would be wrong.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    directory = resolve_model(model)
    names_on_disk = _names_on_disk(directory)
    logging.disable_progress_bar()
    try:
        policy = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"model = {model!r} does not load: {(str(error).splitlines() or [repr(error)])[0]}"
        ) from error
    policy.eval().to(device)
    renamed = [name for name, _ in policy.named_parameters() if name not in names_on_disk]
    if renamed:
        raise ValueError(
            f"model = {model!r} lacks {renamed[0]!r} among its stored weights ({len(renamed)} such names): "
            "it is incomplete, or of an architecture whose stored weights are laid out otherwise, "
            "which cannot be published to the engines"
        )
    _check_architecture(policy, model)
    return policy


def attention_mask(segment_ids: torch.Tensor) -> torch.Tensor:
    """[R, 1, L, L], True where a position may look: causal, within its own sequence.

    transformers hands a 4-D mask to the attention unchanged.
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return same.tril_()[:, None]


def token_logprobs(policy: Any, batch: PackedBatch, temperature: float) -> torch.Tensor:
    """float32 [T]: log-prob of each completion token under softmax(logits / temperature).

    The head is applied to completion positions only, and in chunks whose logits are recomputed in
    the backward pass, so that [T, V] never exists at once.
    """
    longest = getattr(policy.config, "sliding_window", None)
    if longest is not None and int(batch.position_ids.max()) >= longest:
        raise ValueError(
            f"a sequence of {int(batch.position_ids.max()) + 1} tokens exceeds the model's sliding window of "
            f"{longest}, which packed attention ignores: lower rollout.max_model_len to {longest}"
        )
    hidden_RLD = policy.base_model(
        input_ids=batch.input_ids,
        attention_mask=attention_mask(batch.segment_ids),
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    hidden_TD = hidden_RLD.flatten(0, 1)[batch.hidden_positions]
    head = policy.get_output_embeddings()
    chunk = max(1, MAX_LOGITS // head.weight.shape[0])
    if len(hidden_TD) <= chunk:
        return _head_logprobs(hidden_TD, head.weight, head.bias, batch.target_ids, temperature)
    pieces = [
        checkpoint(_head_logprobs, hidden, head.weight, head.bias, targets, temperature, use_reentrant=False)
        for hidden, targets in zip(hidden_TD.split(chunk), batch.target_ids.split(chunk), strict=True)
    ]
    return torch.cat(pieces)


class TokenLogprobs(torch.nn.Module):
    """`token_logprobs` as a module's forward, for `torch.func.functional_call` with other weights."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: PackedBatch, temperature: float) -> torch.Tensor:
        return token_logprobs(self.policy, batch, temperature)


def _head_logprobs(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    target_ids: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    logits_TV = functional.linear(hidden_TD, weight_VD, bias_V).float() / temperature
    return -functional.cross_entropy(logits_TV, target_ids, reduction="none")


def _names_on_disk(directory: Path) -> set[str]:
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"model = {str(directory)!r} has no *.safetensors: convert its weights to safetensors"
        )
    names: set[str] = set()
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                names.update(tensors.keys())
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}): copy or download it again") from error
    return names


def _check_architecture(policy: Any, model: str) -> None:
    """Refuse a head that is not hidden @ W^T, and layers that carry state from one packed sequence to the next."""
    config = policy.config
    for field, neutral in (("final_logit_softcapping", None), ("logit_scale", 1), ("logits_scaling", 1)):
        value = getattr(config, field, None)
        if value is not None and value != neutral:
            raise ValueError(
                f"model = {model!r} has {field} = {value}: the learner computes logits as hidden @ W^T; "
                "use a model without it (Llama, Qwen, Mistral, ...)"
            )
    device = next(policy.parameters()).device
    one, two = torch.tensor([0, 1, 2], device=device), torch.tensor([3, 2, 1, 0], device=device)
    packed = PackedBatch(
        input_ids=torch.cat([one, two])[None],
        position_ids=torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=device),
        segment_ids=torch.tensor([[1, 1, 1, 2, 2, 2, 2]], device=device),
        hidden_positions=torch.tensor([0, 1, 3, 4, 5], device=device),
        target_ids=torch.cat([one[1:], two[1:]]),
        sequence_ids=torch.tensor([0, 0, 1, 1, 1], device=device),
        behaviour_logprobs=torch.zeros(5, device=device),
        versions=torch.zeros(5, dtype=torch.int64, device=device),
    )
    with torch.no_grad():
        logits_TV = torch.cat(
            [policy(input_ids=ids[None], use_cache=False).logits[0, :-1] for ids in (one, two)]
        )
        alone = -functional.cross_entropy(logits_TV.float(), packed.target_ids, reduction="none")
        difference = float((token_logprobs(policy, packed, 1.0) - alone).abs().max())
    if not difference < 1e-2:
        raise ValueError(
            f"model = {model!r} ({type(policy).__name__}) gives other log-probs when sequences share a row "
            f"(difference {difference:.3g} nats): the learner cannot train this architecture"
        )
