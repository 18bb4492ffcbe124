// The kernels, as seen by code that knows no CUDA header.
//
// Each call enqueues one kernel on `stream` and returns: no allocation, no synchronisation, no state, so it may be
// captured in a CUDA graph and used from several contexts. The result is 0 or a cudaError_t. Parameters must have
// passed the checks of ops/ (prepare()).
#pragma once

#include "qdbev/params.h"

struct CUstream_st;

namespace qdbev {

using Stream = CUstream_st*;

int launch_ms_deform_attn(const DeformAttentionParams& params, Stream stream);
int launch_temporal_self_attn(const DeformAttentionParams& params, Stream stream);
int launch_spatial_cross_attn(const SpatialParams& params, Stream stream);
int launch_modulated_deform_sample(const DeformSampleParams& params, Stream stream);

// The sentence that belongs to a launch function's result.
const char* describe_launch_error(int error);

}  // namespace qdbev
