"""What tells checkpoints apart without reading gigabytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

NUM_HASHED_BLOCKS = 64
BLOCK_BYTES = 64 << 10
MODEL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "*.jinja")


def fingerprint(model: Path, *, weights_alone: bool = False) -> str:
    """Hash of a checkpoint's contents, the same for a copy elsewhere; or of its weights alone.

    Of each safetensors file: its size, its header, and 64 blocks of 64 KiB spread evenly over it (all
    of a file below 4 MiB). Training moves every tensor, so this tells checkpoints apart without
    reading gigabytes. Configuration and tokenizer are read whole.
    """
    digest = hashlib.blake2b(digest_size=16)
    for pattern in ("*.safetensors", *(() if weights_alone else MODEL_FILES)):
        for path in sorted(model.glob(pattern)):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            if pattern != "*.safetensors" or size <= NUM_HASHED_BLOCKS * BLOCK_BYTES:
                digest.update(path.read_bytes())
                continue
            with path.open("rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                digest.update(file.read(header_bytes))
                for block in range(NUM_HASHED_BLOCKS):
                    file.seek(block * (size - BLOCK_BYTES) // (NUM_HASHED_BLOCKS - 1))
                    digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()
