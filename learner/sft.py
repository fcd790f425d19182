"""The countdown base model from scratch: tokenizer, model, supervised training on demonstrations.

Left out on purpose: packing and masks. Demonstrations are short and padded on the right, where a
causal model never looks.

Shapes: `D` demonstrations of at most `L` tokens, `S` of them in a batch.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.utils import logging

from learner.model.tensor_files import let_read_as
from learner.schedule import learning_rate_at
from learner.supervised.config import SftConfig
from verifiers.countdown.puzzles import demonstrations
from verifiers.countdown.steps import SPELLINGS

PAD, EOS = "<pad>", "<eos>"
VOCABULARY = (PAD, EOS, ":", "=", "+", "-", "*", "/", "(", ")", *(str(number) for number in range(100)))
MAX_POSITIONS = 128
FLOOR = 0.05
"""Share of the learning rate that the cosine ends with."""
PROGRESS_STEPS = 50
PROGRESS_DEMONSTRATIONS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SftProgress:
    """Where the training is: after `step` of `steps`."""

    step: int
    steps: int
    loss: float
    """Mean over the completion tokens of the last batch, in nats."""
    left_s: float
    """Until the last step, at the pace of the steps so far."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demonstrations:
    """Tokenised, padded on the right."""

    token_ids_DL: torch.Tensor  # int64 [D, L]
    prompt_lengths_D: torch.Tensor  # int64 [D]
    lengths_D: torch.Tensor  # int64 [D], with <eos>


def build_tokenizer() -> Any:
    """Word-level: every symbol and every number up to 99 is one token; any other word is an error."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        WordLevel({token: index for index, token in enumerate(VOCABULARY)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def build_model(config: SftConfig) -> Any:
    """A Llama with initial weights drawn from torch's global generator."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=MAX_POSITIONS,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=VOCABULARY.index(EOS),
            pad_token_id=VOCABULARY.index(PAD),
        )
    )
    _initialise(model, config.num_layers)
    model.generation_config.eos_token_id = VOCABULARY.index(EOS)
    model.generation_config.pad_token_id = VOCABULARY.index(PAD)
    return model


def tokenise(
    tokenizer: Any, config: SftConfig, on_demonstrations: Callable[[int], None] = lambda count: None
) -> Demonstrations:
    """The config's demonstrations, each `prompt completion <eos>`; `on_demonstrations` sees how many there are."""
    spell = SPELLINGS[config.notation]
    pairs: list[tuple[str, str]] = []
    for pair in demonstrations(config.num_demonstrations, config.seed, config.corruption, spell=spell):
        pairs.append(pair)
        if len(pairs) % PROGRESS_DEMONSTRATIONS == 0:
            on_demonstrations(len(pairs))
    encode = tokenizer.backend_tokenizer.encode_batch_fast
    prompts = [encoding.ids for encoding in encode([prompt for prompt, _ in pairs])]
    completions = [encoding.ids for encoding in encode([f"{completion} {EOS}" for _, completion in pairs])]
    prompt_lengths = np.array([len(ids) for ids in prompts])
    lengths = prompt_lengths + np.array([len(ids) for ids in completions])
    token_ids = np.full((len(pairs), lengths.max()), VOCABULARY.index(PAD))
    present = np.arange(token_ids.shape[1]) < lengths[:, None]
    token_ids[present] = np.fromiter(
        (token for pair in zip(prompts, completions, strict=True) for ids in pair for token in ids),
        np.int64,
        count=int(lengths.sum()),
    )
    return Demonstrations(
        token_ids_DL=torch.from_numpy(token_ids),
        prompt_lengths_D=torch.from_numpy(prompt_lengths),
        lengths_D=torch.from_numpy(lengths),
    )


def completion_loss(model: Any, data: Demonstrations, chosen_S: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of the completion tokens, <eos> included, of the chosen demonstrations."""
    lengths_S = data.lengths_D[chosen_S]
    token_ids_SL = data.token_ids_DL[chosen_S, : int(lengths_S.max())]
    positions_L = torch.arange(1, token_ids_SL.shape[1])
    targets_SL = (positions_L >= data.prompt_lengths_D[chosen_S, None]) & (positions_L < lengths_S[:, None])
    hidden_SLD = model.base_model(input_ids=token_ids_SL[:, :-1], use_cache=False).last_hidden_state
    return functional.cross_entropy(model.lm_head(hidden_SLD[targets_SL]), token_ids_SL[:, 1:][targets_SL])


def learning_rate(step: int, config: SftConfig) -> float:
    """The config's warm-up and cosine; `step` counts from 0."""
    return learning_rate_at(
        step,
        schedule="cosine",
        peak=config.learning_rate,
        warmup_steps=config.warmup_steps,
        steps=config.schedule_steps,
        floor=FLOOR,
    )


def train_base(
    config: SftConfig,
    output_dir: str | Path,
    on_progress: Callable[[SftProgress], None],
    on_demonstrations: Callable[[int], None] = lambda count: None,
) -> None:
    """Train and write model and tokenizer to `output_dir`, which appears only when complete.

    The same config gives the same weights on the same machine with the same number of threads.
    Sets torch's global seed.
    """
    assert config.steps is not None
    output = Path(output_dir)
    if output.exists():
        raise ValueError(f"output directory {output} exists: name a new one, or remove it")
    logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    tokenizer = build_tokenizer()
    model = build_model(config)
    data = tokenise(tokenizer, config, on_demonstrations)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    steps_began = time.perf_counter()
    for step in range(config.steps):
        rate = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen_S = torch.randint(0, len(data.lengths_D), (config.batch_size,))
        loss = completion_loss(model, data, chosen_S)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        if (step + 1) % PROGRESS_STEPS == 0 or step + 1 == config.steps:
            now = time.perf_counter()
            progress = SftProgress(
                step=step + 1,
                steps=config.steps,
                loss=loss.item(),
                left_s=(now - steps_began) / (step + 1) * (config.steps - step - 1),
            )
            if not math.isfinite(progress.loss):
                raise ArithmeticError(
                    f"loss is {progress.loss} at step {step + 1}: lower sft.learning_rate = {config.learning_rate}"
                )
            on_progress(progress)
    _write(model, tokenizer, output)


def _write(model: Any, tokenizer: Any, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        let_read_as(temporary / "config.json", temporary)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@torch.no_grad()
def _initialise(model: Any, num_layers: int) -> None:
    """Variance-preserving, residual branches scaled down with depth: at this width twice as fast as std 0.02."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            continue
        std = 0.02 if "embed" in name or "lm_head" in name else parameter.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std *= (2 * num_layers) ** -0.5
        parameter.normal_(std=std)
