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
command -v c++ >/dev/null || missing+=(g++)
[ -n "$(python_that_works)" ] || missing+=(python3 python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
    echo "system packages to install: ${missing[*]}"
    as_root=(env DEBIAN_FRONTEND=noninteractive)
    [ "$(id -u)" -eq 0 ] || as_root=(sudo "${as_root[@]}")
    if ! command -v apt-get >/dev/null || ! command -v "${as_root[0]}" >/dev/null; then
        echo "error: this machine lacks ${missing[*]}, and this script may not install them. Install them by hand." >&2
        exit 4
    fi
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}"
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
# The oldest ONNX Runtime that pyproject.toml admits, beside the environment: exported files are tried on it.
[ -d "$VENV/oldest/onnxruntime" ] ||
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$VENV/oldest" onnxruntime==1.18.1

# The CUDA compiler, where the machine has none that knows our architectures (12 or newer): from PyPI, made to look like a
# toolkit. It compiles without a GPU. Where it cannot be had, the CPU ops are built and tested alone.
usable() { "$1" --version 2>/dev/null | grep -qE 'release (1[2-9]|[2-9][0-9])\.'; }
nvcc=""
for candidate in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"; do
    if [ -z "$nvcc" ] && [ -n "$candidate" ] && usable "$candidate"; then nvcc=$candidate; fi
done
if [ -z "$nvcc" ] && [ "$(uname -m)" = x86_64 ]; then
    if "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85; then
        toolkit=$("$VENV/bin/python" -c 'import nvidia.cu13; print(next(iter(nvidia.cu13.__path__)))')
        chmod +x "$toolkit"/bin/* "$toolkit"/nvvm/bin/*
        ln -sfn lib "$toolkit/lib64"
        ln -sf libcudart.so.13 "$toolkit/lib/libcudart.so"
        nvcc=$toolkit/bin/nvcc
    else
        echo "no CUDA compiler could be installed: the kernels are not compiled, only their CPU twins" >&2
    fi
fi
printf '%s\n' "$nvcc" >"$VENV/nvcc"

# ONNX Runtime's header, with which the C++ runtime is built: the system's, else out of the distribution's package, unpacked
# beside the environment. Debian has the package since 13 (trixie): an older one asks its own mirrors for that release, by
# lists of its own, so that the system knows nothing of it. Needs no root.
unpack_onnxruntime_header() (
    command -v apt-get >/dev/null || exit 1
    scratch=$(mktemp -d) && mkdir -p "$scratch/lists/partial" "$scratch/archives/partial" || exit 1
    trap 'rm -rf "$scratch"' EXIT
    apt=(apt-get -q -o Dir::State::Lists="$scratch/lists" -o Dir::Cache="$scratch" -o Acquire::Languages=none
        -o APT::Sandbox::User=root)
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [ "$codename" = bookworm ] || [ "$codename" = bullseye ]; then
        "${apt[@]}" update --print-uris |
            sed -n "s|^'\(.*\)/dists/$codename/InRelease'.*|deb \1 trixie main|p" >"$scratch/trixie.list"
        apt+=(-o Dir::Etc::SourceList="$scratch/trixie.list" -o Dir::Etc::SourceParts=/dev/null)
    fi
    "${apt[@]}" update >/dev/null || true  # a mirror that fails is no matter as long as another has the package
    (cd "$scratch" && "${apt[@]}" download libonnxruntime-dev >/dev/null) && dpkg-deb -x "$scratch"/*.deb "$scratch/package" &&
        mkdir "$scratch/made" && mv "$scratch/package/usr/include/onnxruntime" "$scratch/made/include" &&
        rm -rf "$VENV/onnxruntime" && mv "$scratch/made" "$VENV/onnxruntime"
)
if [ ! -f "$VENV/onnxruntime/include/onnxruntime_c_api.h" ] &&
    [ -z "$(find /usr/include /usr/local/include -name onnxruntime_c_api.h -print -quit)" ] &&
    ! unpack_onnxruntime_header; then
    echo "no package libonnxruntime-dev could be had: the C++ runtime is built without ONNX Runtime, its tests skip" >&2
fi
