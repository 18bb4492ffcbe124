#!/usr/bin/env bash
# Make $VENV (default .venv) from a fresh Debian or Ubuntu: system packages where they are missing, then the Python ones.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}

python_that_works() {
    # 3.11 first: it is the version the project is tested with.
    local candidate
    for candidate in python3.11 python3.12 python3.10 python3; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

missing=()
for pair in c++:g++ cmake:cmake ninja:ninja-build git:git; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ -n "$(python_that_works)" ] || missing+=(python3 python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
    echo "system packages to install: ${missing[*]}"
    SUDO=""
    [ "$(id -u)" -eq 0 ] || SUDO=sudo
    if ! command -v apt-get >/dev/null || { [ -n "$SUDO" ] && ! command -v sudo >/dev/null; }; then
        echo "error: this machine lacks ${missing[*]}, and this script may not install them. Install them by hand." >&2
        exit 4
    fi
    $SUDO apt-get update -q
    DEBIAN_FRONTEND=noninteractive $SUDO apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

PYTHON=$(python_that_works)
if [ -z "$PYTHON" ]; then
    echo "error: found no Python 3.10 to 3.12 with venv; install one, for example python3.11." >&2
    exit 4
fi

# An environment that an interrupted run left half made is made anew.
"$VENV/bin/python" -c 'import pip' 2>/dev/null || "$PYTHON" -m venv --clear "$VENV"
# torch by its pin and first: later requirements are ranges that it then satisfies.
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,data,dev]'

# The CUDA compiler, where the machine has none: from PyPI, made to look like a toolkit. It compiles without a GPU.
nvcc=$(command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null || true)
if [ -z "$nvcc" ] && [ "$(uname -m)" = x86_64 ]; then
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
    toolkit=$("$VENV/bin/python" -c 'import nvidia.cu13; print(next(iter(nvidia.cu13.__path__)))')
    chmod +x "$toolkit"/bin/* "$toolkit"/nvvm/bin/*
    ln -sfn lib "$toolkit/lib64"
    ln -sf libcudart.so.13 "$toolkit/lib/libcudart.so"
    nvcc=$toolkit/bin/nvcc
fi
printf '%s\n' "$nvcc" >"$VENV/nvcc"
