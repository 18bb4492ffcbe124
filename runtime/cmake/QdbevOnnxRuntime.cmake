# Finds ONNX Runtime's header: in ONNXRUNTIME_ROOT and nowhere else where that is set; else in the folders of the environment's
# ONNXRUNTIME_ROOT and of the system. The library itself is not needed: it is loaded when a bundle asks for it.
set(QDBEV_BUILT_ONNXRUNTIME "")

if(QDBEV_ONNXRUNTIME)
  # What was found is kept only as long as the question is the same.
  set(qdbev_asked "${ONNXRUNTIME_ROOT}|$ENV{ONNXRUNTIME_ROOT}")
  if(DEFINED QDBEV_ONNXRUNTIME_ASKED AND NOT "${QDBEV_ONNXRUNTIME_ASKED}" STREQUAL "${qdbev_asked}")
    unset(QDBEV_ONNXRUNTIME_INCLUDE CACHE)
  endif()
  set(QDBEV_ONNXRUNTIME_ASKED "${qdbev_asked}" CACHE INTERNAL "What QDBEV_ONNXRUNTIME_INCLUDE is the answer to")
  set(qdbev_folders include include/onnxruntime include/onnxruntime/core/session)
  if(ONNXRUNTIME_ROOT)
    find_path(QDBEV_ONNXRUNTIME_INCLUDE NAMES onnxruntime_c_api.h PATHS ${ONNXRUNTIME_ROOT}
              PATH_SUFFIXES ${qdbev_folders} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
    if(NOT QDBEV_ONNXRUNTIME_INCLUDE)
      message(FATAL_ERROR "qdbev: ONNXRUNTIME_ROOT is ${ONNXRUNTIME_ROOT}, which holds no onnxruntime_c_api.h")
    endif()
  else()
    find_path(QDBEV_ONNXRUNTIME_INCLUDE NAMES onnxruntime_c_api.h HINTS $ENV{ONNXRUNTIME_ROOT}
              PATH_SUFFIXES ${qdbev_folders} onnxruntime onnxruntime/core/session
              PATHS /usr/local/onnxruntime /opt/onnxruntime)
  endif()
  if(QDBEV_ONNXRUNTIME_INCLUDE)
    file(STRINGS ${QDBEV_ONNXRUNTIME_INCLUDE}/onnxruntime_c_api.h qdbev_line REGEX "^#define ORT_API_VERSION [0-9]+")
    string(REGEX REPLACE ".* ([0-9]+).*" "\\1" qdbev_minor "${qdbev_line}")
    if(qdbev_minor GREATER_EQUAL 18)
      set(QDBEV_BUILT_ONNXRUNTIME 1.${qdbev_minor})
      message(STATUS "qdbev: ONNX Runtime backend by the header of ${QDBEV_BUILT_ONNXRUNTIME} (${QDBEV_ONNXRUNTIME_INCLUDE})")
    elseif(ONNXRUNTIME_ROOT)
      message(FATAL_ERROR "qdbev: ${QDBEV_ONNXRUNTIME_INCLUDE} is of ONNX Runtime 1.${qdbev_minor}; 1.18 or newer is needed")
    else()
      message(STATUS "qdbev: ${QDBEV_ONNXRUNTIME_INCLUDE} is of ONNX Runtime 1.${qdbev_minor}, and 1.18 or newer is needed "
                     "(unpack a newer release and set ONNXRUNTIME_ROOT): no ONNX Runtime backend")
    endif()
  else()
    message(STATUS "qdbev: no onnxruntime_c_api.h (Debian, Ubuntu: apt install libonnxruntime-dev; else unpack a release "
                   "of ONNX Runtime and set ONNXRUNTIME_ROOT): no ONNX Runtime backend")
  endif()
endif()

add_library(qdbev_onnxruntime_headers INTERFACE)
if(QDBEV_BUILT_ONNXRUNTIME)
  # SYSTEM: the warnings of its header are not ours to fix.
  target_include_directories(qdbev_onnxruntime_headers SYSTEM INTERFACE ${QDBEV_ONNXRUNTIME_INCLUDE})
  set(QDBEV_RUNTIME_ONNXRUNTIME_SOURCES
    src/onnxruntime/api.cpp src/onnxruntime/tensors.cpp src/onnxruntime/model.cpp src/onnxruntime/cuda_copy.cpp
    src/onnxruntime/stream.cpp src/onnxruntime/backend.cpp)
else()
  set(QDBEV_ONNXRUNTIME_INCLUDE "")
  set(QDBEV_RUNTIME_ONNXRUNTIME_SOURCES src/onnxruntime/absent.cpp)
endif()
