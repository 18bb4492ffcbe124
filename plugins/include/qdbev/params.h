// What a kernel is told: plain structs, passed to the GPU by value. Everything in them has been checked (ops/).
#pragma once

#include "qdbev/dtype.h"

namespace qdbev {

constexpr int kMaxLevels = 8;
constexpr int kMaxAnchors = 16;

struct Level {
    int32_t height;
    int32_t width;
    int32_t start;  // index of the level's first token
};

// How queries and heads are dealt to blocks. A block serves a tile of the BEV plane, so that its samples lie close
// together, and few heads, so that what it reads of a token fits the cache well.
struct Tiling {
    int32_t lanes;            // threads that share a head of a query: 16 bytes of channels each
    int32_t heads_per_block;
    int32_t tile_width;       // queries
    int32_t tile_height;
    int32_t tiles_x;
    int32_t tiles_y;

    QDBEV_HD int32_t queries_per_block() const { return tile_width * tile_height; }
    QDBEV_HD int32_t threads() const { return lanes * heads_per_block * queries_per_block(); }
};

// The part that the three attention ops share. Queries form a plane; a plain list of queries is a plane of height 1.
struct AttentionParams {
    const void* value;    // [batch or frame or camera, tokens, heads, head_dim]
    const void* offsets;  // [batch, query, head, (frame,) level, point, 2], pixels
    const void* logits;   // [batch, query, head, (frame,) level * point]
    void* out;            // [batch, query, head * head_dim]
    DType value_type;
    DType aux_type;       // offsets and logits
    DType out_type;
    int32_t batch;
    int32_t query_width;
    int32_t query_height;
    int32_t tokens;
    int32_t heads;
    int32_t head_dim;
    int32_t points;
    int32_t levels;
    Level level[kMaxLevels];
    float value_scale;    // 1 where value is not int8
    float out_scale;      // 1 where out is not int8
    Tiling tiling;

    QDBEV_HD int32_t queries() const { return query_width * query_height; }
    QDBEV_HD int32_t channels() const { return heads * head_dim; }
};

struct DeformAttentionParams {  // MSDeformAttn and TemporalSelfAttn
    AttentionParams attention;
    const float* reference;     // [batch or frame, query, 2]
};

// Points of a query and camera lie this far apart in shared memory. Odd, so that the threads that write one anchor of
// neighbouring cameras meet different banks, and so do those that read one anchor of neighbouring queries.
constexpr int32_t padded_to_banks(int32_t anchors)
{
    return anchors | 1;
}

struct SpatialParams {
    AttentionParams attention;
    const float* lidar2img;     // [cameras, 4, 4]
    int32_t cameras;
    int32_t anchors;
    int32_t padded_anchors;     // see padded_to_banks
    float z_anchor[kMaxAnchors];
    float pc_range[6];
    float image_width;
    float image_height;
};

struct DeformSampleParams {
    const void* x;        // [batch, channels, height, width]
    const void* offset;   // [batch, 2 * taps, out_height, out_width], (dy, dx) of each tap
    const void* mask;     // [batch, taps, out_height, out_width]
    void* out;            // [batch, channels * taps, out_height, out_width]
    DType value_type;
    DType aux_type;
    DType out_type;
    int32_t batch;
    int32_t channels;
    int32_t height;
    int32_t width;
    int32_t out_height;
    int32_t out_width;
    int32_t kernel_height;
    int32_t kernel_width;
    int32_t stride[2];    // y, x
    int32_t padding[2];
    int32_t dilation[2];
    float value_scale;
    float out_scale;

    QDBEV_HD int32_t taps() const { return kernel_height * kernel_width; }
};

}  // namespace qdbev
