# Cross-compiling for Jetson (Orin 87, Thor 110) on an x86-64 machine:
#
#   cmake -S plugins -B build-jetson -DCMAKE_TOOLCHAIN_FILE=$PWD/plugins/cmake/jetson-aarch64.cmake \
#         -DQDBEV_CUDA_ARCHS=87 -DTENSORRT_ROOT=/opt/jetson/tensorrt
#
# Needed here: g++-aarch64-linux-gnu, and a CUDA toolkit with its aarch64 target (cuda-cross-aarch64). The toolkit's
# version must be one that the board's driver runs: 12.x for JetPack 6, 13.x for JetPack 7. QDBEV_JETSON_SYSROOT may name
# a copy of the board's root; without it the cross compiler's own is used, which is enough for this library.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CUDA_HOST_COMPILER aarch64-linux-gnu-g++)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES QDBEV_JETSON_SYSROOT)

if(QDBEV_JETSON_SYSROOT)
  set(CMAKE_SYSROOT ${QDBEV_JETSON_SYSROOT})
endif()

# Headers and libraries are the target's; programs (nvcc, ninja) are this machine's.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
