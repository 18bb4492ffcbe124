#!/usr/bin/env bash
# Compiles the TensorRT backend, and the assertions that its test doubles share, against real headers; and looks whether it
# could be linked without TensorRT's library.
#
#   check_trt_headers.sh INCLUDE_DIR...        (each holds a NvInferVersion.h)
#
# CXX and CUDA_INCLUDE choose the compiler and the CUDA runtime's headers.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $(basename "$0") INCLUDE_DIR..." >&2; exit 2; }
runtime=$(cd "$(dirname "$0")/.." && pwd)
cxx=${CXX:-c++}
cuda=${CUDA_INCLUDE:-/usr/local/cuda/include}
[ -f "$cuda/cuda_runtime_api.h" ] || { echo "no cuda_runtime_api.h in $cuda: set CUDA_INCLUDE" >&2; exit 2; }
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
status=0

# Of the undefined names those that are TensorRT's: the backend finds functions by name, at run time.
linked_names() {
  nm -u --demangle "$built"/*.o | grep -E ' U ((vtable|typeinfo) for )?(nvinfer1::|createInfer|getPlugin|getInfer)' || true
}

compile() {
  rm -f "$built"/*.o
  local source
  for source in "$runtime"/src/tensorrt/*.cpp "$runtime/tests/trt_double/same_as_real.cpp"; do
    "$cxx" -std=c++17 -O1 -fPIC -Wall -Wextra -Wpedantic -Wconversion -Werror -I"$runtime/include" -I"$runtime/src" \
      -isystem "$1" -isystem "$cuda" -c "$source" -o "$built/$(basename "$source").o" || return 1
  done
  [ -z "$(linked_names)" ] || { echo "it would have to be linked with TensorRT:" >&2; linked_names >&2; return 1; }
}

for include in "$@"; do
  if [ ! -f "$include/NvInferVersion.h" ]; then
    echo "$include: no NvInferVersion.h" >&2; status=1; continue
  fi
  number() { sed -nE "s/^#define (NV_TENSORRT_$1|TRT_$1_ENTERPRISE) ([0-9]+).*/\2/p" "$include/NvInferVersion.h" | head -1; }
  version="$(number MAJOR).$(number MINOR).$(number PATCH)"
  if compile "$include"; then
    echo "TensorRT $version: the backend compiles without warnings, and needs nothing of the library"
  else
    echo "TensorRT $version: FAILED ($include)" >&2; status=1
  fi
done
exit $status
