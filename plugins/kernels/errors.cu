// CUDA's own words for a launch error.
#include <cuda_runtime.h>

#include "qdbev/launch.h"

namespace qdbev {

const char* describe_launch_error(int error)
{
    return cudaGetErrorString(static_cast<cudaError_t>(error));
}

}  // namespace qdbev
