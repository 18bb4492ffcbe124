# Finds what the TensorRT backend is built with: TensorRT's headers, as the plugins find them, and the CUDA toolkit's headers
# and static runtime. Nothing of TensorRT is linked: its library is loaded when a bundle asks for it.
set(QDBEV_BUILT_TENSORRT "")
include(${CMAKE_CURRENT_LIST_DIR}/../../plugins/cmake/QdbevTensorRTHeaders.cmake)

add_library(qdbev_tensorrt_headers INTERFACE)
# Of src/tensorrt; the tests compile them against doubles of both.
set(QDBEV_TENSORRT_BACKEND backend.cpp compatibility.cpp cuda.cpp log.cpp plugins.cpp stream.cpp)
set(QDBEV_RUNTIME_TENSORRT_SOURCES src/tensorrt/absent.cpp)

if(QDBEV_TENSORRT)
  qdbev_find_tensorrt_headers()
  if(NOT QDBEV_BUILT_TENSORRT)
    message(STATUS "qdbev: no TensorRT headers (set TENSORRT_ROOT, or QDBEV_FETCH_TENSORRT_HEADERS=ON): no TensorRT backend")
  elseif(NOT QDBEV_BUILT_TENSORRT MATCHES "^(8\\.6|10|11)\\." OR QDBEV_BUILT_TENSORRT MATCHES "^10\\.[012]\\.")
    message(STATUS "qdbev: ${QDBEV_TENSORRT_INCLUDE} is of TensorRT ${QDBEV_BUILT_TENSORRT}, and 8.6, 10.3 or a later 10, or "
                   "11 is needed: no TensorRT backend")
    set(QDBEV_BUILT_TENSORRT "")
  else()
    # The compiler that CUDACXX names shows where its toolkit lies; it compiles nothing here.
    if(NOT DEFINED CUDAToolkit_NVCC_EXECUTABLE AND EXISTS "$ENV{CUDACXX}")
      set(CUDAToolkit_NVCC_EXECUTABLE $ENV{CUDACXX} CACHE FILEPATH "nvcc")
    endif()
    find_package(CUDAToolkit QUIET)
    if(TARGET CUDA::cudart_static)
      # SYSTEM: the warnings of NVIDIA's headers are not ours to fix.
      target_include_directories(qdbev_tensorrt_headers SYSTEM INTERFACE ${QDBEV_TENSORRT_INCLUDE} ${CUDAToolkit_INCLUDE_DIRS})
      target_link_libraries(qdbev_tensorrt_headers INTERFACE CUDA::cudart_static)
      list(TRANSFORM QDBEV_TENSORRT_BACKEND PREPEND src/tensorrt/ OUTPUT_VARIABLE QDBEV_RUNTIME_TENSORRT_SOURCES)
      message(STATUS "qdbev: TensorRT backend for ${QDBEV_BUILT_TENSORRT} (${QDBEV_TENSORRT_INCLUDE}) with CUDA "
                     "${CUDAToolkit_VERSION}")
    else()
      message(STATUS "qdbev: no CUDA toolkit with its static runtime (set CUDAToolkit_ROOT or CUDACXX): no TensorRT backend")
      set(QDBEV_BUILT_TENSORRT "")
    endif()
  endif()
endif()
