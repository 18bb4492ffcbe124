// From an op's checked parameters to its kernel.
#include "qdbev/launch.h"

#include "qdbev/op.h"

namespace qdbev {

extern const OpSpec kTemporalSelfAttn;

int launch(const OpSpec& op, const Params& params, Stream stream)
{
    if (const auto* spatial = std::get_if<SpatialParams>(&params)) {
        return launch_spatial_cross_attn(*spatial, stream);
    }
    if (const auto* sample = std::get_if<DeformSampleParams>(&params)) {
        return launch_modulated_deform_sample(*sample, stream);
    }
    const auto& attention = *std::get_if<DeformAttentionParams>(&params);
    return &op == &kTemporalSelfAttn ? launch_temporal_self_attn(attention, stream)
                                     : launch_ms_deform_attn(attention, stream);
}

}  // namespace qdbev
