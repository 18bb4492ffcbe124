# Settles the TensorRT adapter by the headers that are found. The library itself is not needed: TensorRT loads the plugins,
# the plugins never call into it.
set(QDBEV_BUILT_TENSORRT "")
include(${CMAKE_CURRENT_LIST_DIR}/QdbevTensorRTHeaders.cmake)

if(QDBEV_TENSORRT AND QDBEV_HAVE_CUDA)
  qdbev_find_tensorrt_headers()
  if(QDBEV_BUILT_TENSORRT)
    message(STATUS "qdbev: TensorRT adapter for ${QDBEV_BUILT_TENSORRT} (${QDBEV_TENSORRT_INCLUDE})")
  else()
    message(STATUS "qdbev: no TensorRT headers (set TENSORRT_ROOT, or QDBEV_FETCH_TENSORRT_HEADERS=ON): no TensorRT plugins")
  endif()
elseif(QDBEV_TENSORRT)
  message(STATUS "qdbev: without CUDA kernels there are no TensorRT plugins")
endif()

set(QDBEV_ADAPTER_SOURCES "")
if(QDBEV_BUILT_TENSORRT)
  # SYSTEM: the warnings of NVIDIA's headers are not ours to fix.
  add_library(qdbev_tensorrt_headers INTERFACE)
  target_include_directories(qdbev_tensorrt_headers SYSTEM INTERFACE ${QDBEV_TENSORRT_INCLUDE} ${CUDAToolkit_INCLUDE_DIRS})
  if(QDBEV_BUILT_TENSORRT VERSION_LESS 10)
    set(QDBEV_ADAPTER_SOURCES tensorrt/plugin_v2.cpp tensorrt/log.cpp)
  else()
    set(QDBEV_ADAPTER_SOURCES tensorrt/plugin_v3.cpp tensorrt/log.cpp)
  endif()
endif()
