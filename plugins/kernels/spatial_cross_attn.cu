// spatial_cross_attn on the GPU; what a thread does is in qdbev/body.h and the headers it includes.
#include "runner.cuh"

namespace qdbev {

int launch_spatial_cross_attn(const SpatialParams& params, Stream stream)
{
    return run_spatial_cross_attn(params, CudaRunner{stream});
}

}  // namespace qdbev
