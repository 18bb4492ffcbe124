// modulated_deform_sample on the GPU; what a thread does is in qdbev/deform_sample.h.
#include "runner.cuh"

namespace qdbev {

int launch_modulated_deform_sample(const DeformSampleParams& params, Stream stream)
{
    return run_modulated_deform_sample(params, CudaRunner{stream});
}

}  // namespace qdbev
