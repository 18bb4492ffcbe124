// Stands where the CUDA kernels stand, so that an adapter's enqueue can be followed to its end without a GPU. A test
// can make the next launch fail.
#include "launch_on_host.h"

#include "emulate.h"
#include "qdbev/launch.h"

namespace qdbev {

int g_next_launch_error = 0;
Stream g_last_stream = nullptr;

namespace {

template <typename Run>
int launched(Stream stream, Run&& run)
{
    g_last_stream = stream;
    const int error = g_next_launch_error;
    g_next_launch_error = 0;
    return error != 0 ? error : run(HostRunner{1});
}

}  // namespace

int launch_ms_deform_attn(const DeformAttentionParams& params, Stream stream)
{
    return launched(stream, [&](const HostRunner& runner) { return run_ms_deform_attn(params, runner); });
}

int launch_temporal_self_attn(const DeformAttentionParams& params, Stream stream)
{
    return launched(stream, [&](const HostRunner& runner) { return run_temporal_self_attn(params, runner); });
}

int launch_spatial_cross_attn(const SpatialParams& params, Stream stream)
{
    return launched(stream, [&](const HostRunner& runner) { return run_spatial_cross_attn(params, runner); });
}

int launch_modulated_deform_sample(const DeformSampleParams& params, Stream stream)
{
    return launched(stream, [&](const HostRunner& runner) { return run_modulated_deform_sample(params, runner); });
}

const char* describe_launch_error(int)
{
    return "the launch failed as the test asked";
}

}  // namespace qdbev
