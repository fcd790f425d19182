"""Checkpoints of real models' sizes whose weights are holes in a file: for what is reckoned from files alone."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

QWEN_1_5B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
QWEN_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


def save_hollow(directory: Path, settings: dict[str, Any], config: Any = None) -> Path:
    """A Qwen2 in bfloat16, or what the config is of; takes a few kilobytes of disk."""
    if config is None:
        vocabulary = {"vocab_size": 151936, "max_position_embeddings": 32768, "dtype": "bfloat16"}
        config = transformers.Qwen2Config(**vocabulary, **settings, architectures=["Qwen2ForCausalLM"])
    config.dtype = "bfloat16"
    directory.mkdir()
    config.save_pretrained(directory)
    _bytes_as_tokens().save_pretrained(directory)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    header, end = {}, 0
    for name, tensor in dict(model.named_parameters()).items():
        size = 2 * math.prod(tensor.shape)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return directory


def _bytes_as_tokens() -> Any:
    """A tokenizer that knows every text."""
    names = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>"
    )
