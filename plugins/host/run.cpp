// The ops on the CPU: the bodies of the kernels, run by the emulator.
#include "qdbev/host.h"

#include "emulate.h"

namespace qdbev {

extern const OpSpec kTemporalSelfAttn;

void run_on_host(const OpSpec& op, const Params& params, int32_t threads)
{
    const HostRunner runner{threads};
    if (const auto* spatial = std::get_if<SpatialParams>(&params)) {
        run_spatial_cross_attn(*spatial, runner);
    } else if (const auto* sample = std::get_if<DeformSampleParams>(&params)) {
        run_modulated_deform_sample(*sample, runner);
    } else if (&op == &kTemporalSelfAttn) {
        run_temporal_self_attn(std::get<DeformAttentionParams>(params), runner);
    } else {
        run_ms_deform_attn(std::get<DeformAttentionParams>(params), runner);
    }
}

}  // namespace qdbev
