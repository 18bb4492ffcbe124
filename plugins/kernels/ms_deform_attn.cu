// ms_deform_attn on the GPU; what a thread does is in qdbev/body.h and the headers it includes.
#include "runner.cuh"

namespace qdbev {

int launch_ms_deform_attn(const DeformAttentionParams& params, Stream stream)
{
    return run_ms_deform_attn(params, CudaRunner{stream});
}

}  // namespace qdbev
