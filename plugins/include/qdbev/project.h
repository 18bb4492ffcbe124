// Projection of a BEV pillar into a camera, in FP32 whatever the tensors are.
#pragma once

#include "qdbev/params.h"

namespace qdbev {

constexpr float kMinDepth = 1e-5F;  // metres; nearer than this or behind the camera is invisible

// Keeps NaN: a point that is nowhere must not become a point at the border.
QDBEV_HD float clamp_reference(float v)
{
    return v < -2.0F ? -2.0F : (v > 3.0F ? 3.0F : v);
}

// One row of the 4x4 matrix times (x, y, z, 1), uncontracted and in this order.
QDBEV_HD float project_row(const float* row, float x, float y, float z)
{
    return add_rn(add_rn(add_rn(mul_rn(row[0], x), mul_rn(row[1], y)), mul_rn(row[2], z)), row[3]);
}

// Writes where the anchors of cell (x, y) appear in the camera's image, as fractions of it clamped to -2..3, and
// returns whether any of them is visible: in front of the camera and strictly inside the image.
QDBEV_HD bool project_pillar(const SpatialParams& params, int32_t x, int32_t y, int32_t camera, Float2* out)
{
    const AttentionParams& p = params.attention;
    const float* m = params.lidar2img + camera * 16;
    const float* r = params.pc_range;
    const float cell_x = (static_cast<float>(x) + 0.5F) / static_cast<float>(p.query_width);
    const float cell_y = (static_cast<float>(y) + 0.5F) / static_cast<float>(p.query_height);
    const float world_x = add_rn(mul_rn(cell_x, r[3] - r[0]), r[0]);
    const float world_y = add_rn(mul_rn(cell_y, r[4] - r[1]), r[1]);
    bool visible = false;
    for (int32_t i = 0; i < params.anchors; ++i) {
        const float z = params.z_anchor[i];
        const float depth = project_row(m + 8, world_x, world_y, z);
        const float divisor = depth < kMinDepth ? kMinDepth : depth;  // NaN stays NaN
        const float u = project_row(m, world_x, world_y, z) / divisor / params.image_width;
        const float v = project_row(m + 4, world_x, world_y, z) / divisor / params.image_height;
        visible = visible || (depth > kMinDepth && u > 0.0F && u < 1.0F && v > 0.0F && v < 1.0F);
        out[i] = Float2{clamp_reference(u), clamp_reference(v)};
    }
    return visible;
}

}  // namespace qdbev
