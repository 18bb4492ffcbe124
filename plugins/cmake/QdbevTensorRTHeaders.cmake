# Finds TensorRT's headers: in TENSORRT_ROOT and nowhere else where that is set; else in the system's folders and then, if
# asked, in NVIDIA's public repository. The library itself is needed neither by the plugins nor by the runtime.
set(QDBEV_FETCH_TENSORRT_VERSION "v10.3.0" CACHE STRING "Tag of NVIDIA's repository for QDBEV_FETCH_TENSORRT_HEADERS")

function(qdbev_tensorrt_version folder result)
  file(READ ${folder}/NvInferVersion.h text)
  set(numbers "")
  foreach(part MAJOR MINOR PATCH)
    # Newer headers define NV_TENSORRT_MAJOR through TRT_MAJOR_ENTERPRISE.
    if(text MATCHES "#define (NV_TENSORRT_${part}|TRT_${part}_ENTERPRISE) ([0-9]+)")
      list(APPEND numbers ${CMAKE_MATCH_2})
    endif()
  endforeach()
  list(JOIN numbers "." version)
  set(${result} "${version}" PARENT_SCOPE)
endfunction()

# Sets QDBEV_TENSORRT_INCLUDE, and QDBEV_BUILT_TENSORRT to the version of what is there; empty where nothing is.
macro(qdbev_find_tensorrt_headers)
  set(QDBEV_BUILT_TENSORRT "")
  # What was found is kept only as long as the question is the same: a second build against another TensorRT in the same
  # folder must not silently be one against the first.
  set(qdbev_asked "${TENSORRT_ROOT}|$ENV{TENSORRT_ROOT}|${QDBEV_FETCH_TENSORRT_HEADERS}|${QDBEV_FETCH_TENSORRT_VERSION}")
  if(DEFINED QDBEV_TENSORRT_ASKED AND NOT "${QDBEV_TENSORRT_ASKED}" STREQUAL "${qdbev_asked}")
    unset(QDBEV_TENSORRT_INCLUDE CACHE)
  endif()
  set(QDBEV_TENSORRT_ASKED "${qdbev_asked}" CACHE INTERNAL "What QDBEV_TENSORRT_INCLUDE is the answer to")
  if(TENSORRT_ROOT)
    find_path(QDBEV_TENSORRT_INCLUDE NAMES NvInferVersion.h PATHS ${TENSORRT_ROOT} PATH_SUFFIXES include
              NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
    if(NOT QDBEV_TENSORRT_INCLUDE)
      message(FATAL_ERROR "qdbev: TENSORRT_ROOT is ${TENSORRT_ROOT}, which holds no NvInferVersion.h")
    endif()
  else()
    find_path(QDBEV_TENSORRT_INCLUDE NAMES NvInferVersion.h HINTS $ENV{TENSORRT_ROOT} PATH_SUFFIXES include
              PATHS /usr/include/aarch64-linux-gnu /usr/include/x86_64-linux-gnu /usr/local/tensorrt /opt/tensorrt)
  endif()
  if(NOT QDBEV_TENSORRT_INCLUDE AND QDBEV_FETCH_TENSORRT_HEADERS)
    include(FetchContent)
    FetchContent_Declare(tensorrt_headers GIT_REPOSITORY https://github.com/NVIDIA/TensorRT.git
                         GIT_TAG ${QDBEV_FETCH_TENSORRT_VERSION} GIT_SHALLOW ON GIT_SUBMODULES "" SOURCE_SUBDIR none)
    FetchContent_MakeAvailable(tensorrt_headers)
    set(QDBEV_TENSORRT_INCLUDE ${tensorrt_headers_SOURCE_DIR}/include CACHE PATH "TensorRT's headers" FORCE)
  endif()
  if(QDBEV_TENSORRT_INCLUDE)
    qdbev_tensorrt_version(${QDBEV_TENSORRT_INCLUDE} QDBEV_BUILT_TENSORRT)
  endif()
endmacro()
