#!/usr/bin/env bash
# Makes the CPU environment in the given directory: bash deploy/install-cpu.sh .venv
# Exactly the versions of requirements-cpu.lock, in about half a minute. Needs Python 3.11 or newer.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: install-cpu.sh VENV_DIRECTORY}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "install: $("$python" --version) is too old: Bonfire needs Python 3.11 or newer (set PYTHON=...)" >&2
  exit 1
}
command -v lscpu >/dev/null || {
  echo "install: lscpu is missing, vLLM's CPU build asks it for the cores: install util-linux" >&2
  exit 1
}
echo "install: making $venv from requirements-cpu.lock"
"$python" -m venv "$venv"
"$venv/bin/pip" --quiet --quiet install --disable-pip-version-check uv==0.13.8

# The CPU build of torch is not on PyPI. Take it from pip's own find-links where that has it,
# otherwise from PyTorch's CPU index, which uv knows by this name.
torch=$(sed -n 's/^torch==//p' requirements-cpu.lock)
torch_from=(--torch-backend cpu)
for directory in ${PIP_FIND_LINKS:-}; do
  if compgen -G "$directory/torch-$torch-*.whl" >/dev/null; then
    torch_from=(--find-links "$directory")
  fi
done
# The lock is complete: --no-deps keeps out torchvision, torchaudio and torchcodec, whose published
# builds are CUDA's and break transformers beside a CPU torch.
export UV_PYTHON_DOWNLOADS=never
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps "${torch_from[@]}" -r requirements-cpu.lock
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --editable .
# The sandbox in which programs are judged. Everything else works without it.
if ! command -v bwrap >/dev/null; then
  remedy="install: bubblewrap is missing, so the verifier python_tests cannot run: apt-get install bubblewrap"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "install: installing bubblewrap, the sandbox of the verifier python_tests"
    { apt-get install -y -qq bubblewrap || { apt-get update -qq && apt-get install -y -qq bubblewrap; }; } \
      >/dev/null 2>&1 || echo "$remedy" >&2
  else
    echo "$remedy" >&2
  fi
fi
touch "$venv/.ready"
echo "install: done"
