// Runs a body on the GPU: the only place where a kernel is declared and launched.
#pragma once

#include <cuda_runtime.h>

#include "qdbev/dispatch.h"
#include "qdbev/launch.h"

namespace qdbev {

// Five blocks of 128 threads a multiprocessor leave each thread up to 96 registers: enough for eight corners in flight
// and sixteen sums without a spill.
constexpr int kMinBlocks = 5;

template <typename Body>
__global__ void __launch_bounds__(kThreadsPerBlock, kMinBlocks) body_kernel(const __grid_constant__ typename Body::Params params)
{
    extern __shared__ uint4 shared[];
    const Place at{static_cast<int32_t>(blockIdx.x), static_cast<int32_t>(blockIdx.y), static_cast<int32_t>(blockIdx.z),
        static_cast<int32_t>(threadIdx.x), static_cast<int32_t>(blockDim.x)};
    Body::template run<0>(params, at, shared);
    if constexpr (Body::kPhases == 2) {
        __syncthreads();
        Body::template run<1>(params, at, shared);
    }
}

struct CudaRunner {
    Stream stream;

    template <typename Body>
    int run(const typename Body::Params& params, const Grid& grid) const
    {
        const dim3 blocks(static_cast<unsigned>(grid.blocks_x), static_cast<unsigned>(grid.blocks_y),
            static_cast<unsigned>(grid.blocks_z));
        void* arguments[] = {const_cast<typename Body::Params*>(&params)};
        // The launch's own result, not cudaGetLastError: an error that someone else left behind is not ours to clear.
        return static_cast<int>(cudaLaunchKernel(reinterpret_cast<const void*>(&body_kernel<Body>), blocks,
            dim3(static_cast<unsigned>(grid.threads)), arguments, static_cast<size_t>(grid.shared_bytes), stream));
    }
};

}  // namespace qdbev
