#!/usr/bin/env bash
# Compiles the TensorRT adapters, and the assertions that the test double shares, against real headers.
#
#   check_trt_headers.sh INCLUDE_DIR...        (each holds a NvInferVersion.h)
#
# CXX and CUDA_INCLUDE choose the compiler and the CUDA runtime's headers.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $(basename "$0") INCLUDE_DIR..." >&2; exit 2; }
plugins=$(cd "$(dirname "$0")/.." && pwd)
cxx=${CXX:-c++}
cuda=${CUDA_INCLUDE:-/usr/local/cuda/include}
[ -f "$cuda/cuda_runtime_api.h" ] || { echo "no cuda_runtime_api.h in $cuda: set CUDA_INCLUDE" >&2; exit 2; }
status=0
for include in "$@"; do
  if [ ! -f "$include/NvInferVersion.h" ]; then
    echo "$include: no NvInferVersion.h" >&2; status=1; continue
  fi
  number() { sed -nE "s/^#define (NV_TENSORRT_$1|TRT_$1_ENTERPRISE) ([0-9]+).*/\2/p" "$include/NvInferVersion.h" | head -1; }
  major=$(number MAJOR)
  version="$major.$(number MINOR).$(number PATCH)"
  flags=(-std=c++17 -fsyntax-only -Wall -Wextra -Wpedantic -Wconversion -Werror
         -I"$plugins/include" -isystem "$include" -isystem "$cuda")
  if [ "$major" -ge 10 ]; then adapter=plugin_v3; flags+=(-DQDBEV_EXPECT_V3); else adapter=plugin_v2; fi
  if "$cxx" "${flags[@]}" "$plugins/tensorrt/$adapter.cpp" &&
     "$cxx" "${flags[@]}" "$plugins/tensorrt/log.cpp" &&
     "$cxx" "${flags[@]}" "$plugins/tests/trt_double/same_as_real.cpp"; then
    echo "TensorRT $version: $adapter compiles without warnings"
  else
    echo "TensorRT $version: FAILED ($include)" >&2; status=1
  fi
done
exit $status
