// From checked parameters to one instance of a body and the grid it runs on; the same for the host and for CUDA.
//
// A `Runner` has  template <typename Body> int run(const typename Body::Params&, const Grid&)  and returns 0 or an
// error code of its own.
#pragma once

#include "qdbev/body.h"
#include "qdbev/deform_sample.h"

namespace qdbev {

struct Grid {
    int32_t blocks_x;
    int32_t blocks_y;
    int32_t blocks_z;
    int32_t threads;
    int32_t shared_bytes;
};

constexpr int32_t kThreadsPerBlock = 128;  // never exceeded: the kernels' register budget relies on it

// How work is dealt to blocks unless a benchmark asks for something else. Reasoned, to be measured: a block reads at
// least 64 contiguous bytes of a token (two sectors), and one head group after the other keeps what is live of the
// value tensor small enough for the L2 cache.
inline Tiling default_tiling(DType value_type, int32_t heads, int32_t head_dim, int32_t query_width, int32_t query_height)
{
    Tiling t{};
    const int32_t head_bytes = head_dim * static_cast<int32_t>(size_of(value_type));
    t.lanes = head_bytes / 16;
    t.heads_per_block = 1;
    while (t.heads_per_block * head_bytes < 64 && heads % (2 * t.heads_per_block) == 0) {
        t.heads_per_block *= 2;
    }
    const int32_t room = kThreadsPerBlock / (t.lanes * t.heads_per_block);
    const int32_t queries = room > 1 ? room : 1;
    t.tile_width = queries;
    t.tile_height = 1;
    if (query_height > 1) {  // a tile about twice as wide as high: rows of a tile are neighbours in memory too
        while (t.tile_width > 2 * t.tile_height && t.tile_width % 2 == 0) {
            t.tile_width /= 2;
            t.tile_height *= 2;
        }
    }
    t.tiles_x = (query_width + t.tile_width - 1) / t.tile_width;
    t.tiles_y = (query_height + t.tile_height - 1) / t.tile_height;
    return t;
}

inline Grid grid_of(const AttentionParams& p, int32_t blocks_z, int32_t shared_bytes)
{
    const Tiling& t = p.tiling;
    return Grid{t.tiles_x * t.tiles_y, p.heads / t.heads_per_block, blocks_z, t.threads(), shared_bytes};
}

inline int32_t shared_bytes_of(const SpatialParams& p)
{
    const int32_t entries = p.attention.tiling.queries_per_block() * p.cameras;
    return entries * (p.padded_anchors * static_cast<int32_t>(sizeof(Float2)) + 1);
}

inline bool aligned_to(const void* pointer, size_t bytes)
{
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Whether every 16-byte access of the fast variants is aligned. The row sizes follow: a head is a multiple of 16 bytes
// (checked in ops/), and offsets and logits come in fours.
inline bool can_run_fast(const AttentionParams& p)
{
    return p.points % 4 == 0 && aligned_to(p.value, 16) && aligned_to(p.offsets, 16) && aligned_to(p.logits, 16)
        && aligned_to(p.out, 16);
}

template <template <typename, typename> class Body, typename Value, typename Params, typename Runner>
int dispatch_aux(const Params& params, const AttentionParams& p, const Grid& grid, Runner&& runner)
{
    if (!can_run_fast(p)) {
        return runner.template run<Body<Value, AnyAux>>(params, grid);
    }
    if (p.aux_type == DType::kF16) {
        return runner.template run<Body<Value, Half>>(params, grid);
    }
    return runner.template run<Body<Value, float>>(params, grid);
}

template <template <typename, typename> class Body, typename Params, typename Runner>
int dispatch_attention(const Params& params, const Grid& grid, Runner&& runner)
{
    const AttentionParams& p = params.attention;
    switch (p.value_type) {
    case DType::kF32: return dispatch_aux<Body, float>(params, p, grid, runner);
    case DType::kF16: return dispatch_aux<Body, Half>(params, p, grid, runner);
    case DType::kI8: break;
    }
    return dispatch_aux<Body, int8_t>(params, p, grid, runner);
}

template <typename Runner>
int run_ms_deform_attn(const DeformAttentionParams& p, Runner&& runner)
{
    return dispatch_attention<DeformAttentionBody>(p, grid_of(p.attention, p.attention.batch, 0), runner);
}

template <typename Runner>
int run_temporal_self_attn(const DeformAttentionParams& p, Runner&& runner)
{
    return dispatch_attention<TemporalBody>(p, grid_of(p.attention, 1, 0), runner);
}

template <typename Runner>
int run_spatial_cross_attn(const SpatialParams& p, Runner&& runner)
{
    return dispatch_attention<SpatialBody>(p, grid_of(p.attention, 1, shared_bytes_of(p)), runner);
}

template <typename Value, typename Runner>
int dispatch_sample(const DeformSampleParams& p, const Grid& grid, Runner&& runner)
{
    if (p.aux_type == DType::kF16) {
        return runner.template run<DeformSampleBody<Value, Half>>(p, grid);
    }
    return runner.template run<DeformSampleBody<Value, float>>(p, grid);
}

template <typename Runner>
int run_modulated_deform_sample(const DeformSampleParams& p, Runner&& runner)
{
    const int32_t pixels = p.out_height * p.out_width;
    const int32_t channel_groups = (p.channels + kSampleChannels - 1) / kSampleChannels;
    const Grid grid{
        (pixels + kSampleThreads - 1) / kSampleThreads, p.taps() * channel_groups, p.batch, kSampleThreads, 0};
    switch (p.value_type) {
    case DType::kF32: return dispatch_sample<float>(p, grid, runner);
    case DType::kF16: return dispatch_sample<Half>(p, grid, runner);
    case DType::kI8: break;
    }
    return dispatch_sample<int8_t>(p, grid, runner);
}

}  // namespace qdbev
