// temporal_self_attn on the GPU; what a thread does is in qdbev/body.h and the headers it includes.
#include "runner.cuh"

namespace qdbev {

int launch_temporal_self_attn(const DeformAttentionParams& params, Stream stream)
{
    return run_temporal_self_attn(params, CudaRunner{stream});
}

}  // namespace qdbev
