// What one thread of a block does. A kernel is a sequence of phases with a barrier between them, and each phase is a
// function of the thread's place alone, so the host can run a block by running every thread through a phase before the
// next (host/emulate.h): what the tests on the CPU execute is what the GPU executes.
#pragma once

#include "qdbev/gather.h"
#include "qdbev/project.h"

namespace qdbev {

struct Place {
    int32_t block_x;
    int32_t block_y;
    int32_t block_z;
    int32_t thread;
    int32_t threads;
};

// The query, head and channels that a thread of an attention op serves.
struct Task {
    int32_t query;
    int32_t tile_query;  // index within the block's tile
    int32_t head;
    int32_t channel;     // first of this thread's, within the head
    bool active;         // tiles overhang the plane's edges
};

template <int Channels>
QDBEV_HD Task task_at(const AttentionParams& p, const Place& at)
{
    const Tiling& t = p.tiling;
    const int32_t lane = at.thread % t.lanes;
    const int32_t pair = at.thread / t.lanes;
    const int32_t tile_query = pair / t.heads_per_block;
    const int32_t x = (at.block_x % t.tiles_x) * t.tile_width + tile_query % t.tile_width;
    const int32_t y = (at.block_x / t.tiles_x) * t.tile_height + tile_query / t.tile_width;
    Task task;
    task.query = y * p.query_width + x;
    task.tile_query = tile_query;
    task.head = at.block_y * t.heads_per_block + pair % t.heads_per_block;
    task.channel = lane * Channels;
    task.active = x < p.query_width && y < p.query_height;
    return task;
}

template <typename Value>
QDBEV_HD const Value* plane_of(const AttentionParams& p, int64_t image, const Task& task)
{
    return static_cast<const Value*>(p.value) + image * p.tokens * p.channels() + task.head * p.head_dim + task.channel;
}

template <bool Fast, int Channels>
QDBEV_HD void store_result(
    const AttentionParams& p, int64_t batch, const Task& task, const float (&sum)[Channels], float factor, float unit)
{
    float value[Channels];
    QDBEV_UNROLL
    for (int i = 0; i < Channels; ++i) {
        value[i] = sum[i] * unit * factor;  // unit is a power of two
    }
    const int64_t index = (batch * p.queries() + task.query) * p.channels() + task.head * p.head_dim + task.channel;
    store_channels<Fast>(p.out, p.out_type, index, value, p.out_scale);
}

template <typename Value, typename Aux>
struct DeformAttentionBody {
    using Params = DeformAttentionParams;
    static constexpr int kPhases = 1;

    template <int Phase>
    QDBEV_HD static void run(const Params& params, const Place& at, void*)
    {
        const AttentionParams& p = params.attention;
        using Sum = Accumulator<Value>;
        const Task task = task_at<Sum::kChannels>(p, at);
        if (!task.active) {
            return;
        }
        const int64_t row = static_cast<int64_t>(at.block_z) * p.queries() + task.query;
        const int32_t samples = p.levels * p.points;
        const int64_t first = (row * p.heads + task.head) * samples;
        const AuxReader<Aux> offsets(p, p.offsets, 2 * first);
        const AuxReader<Aux> logits(p, p.logits, first);
        const OneReference reference{{params.reference[2 * row], params.reference[2 * row + 1]}};
        Sum sum;
        gather<Value, Aux>(p, plane_of<Value>(p, at.block_z, task), offsets, logits, softmax_over(logits, samples),
            reference, sum);
        store_result<AuxTraits<Aux>::kFast>(p, at.block_z, task, sum.sum, p.value_scale, Sum::kUnit);
    }
};

// Frame 0 is the previous one, frame 1 the current; each has its own softmax.
template <typename Value, typename Aux>
struct TemporalBody {
    using Params = DeformAttentionParams;
    static constexpr int kPhases = 1;
    static constexpr int kFrames = 2;

    template <int Phase>
    QDBEV_HD static void run(const Params& params, const Place& at, void*)
    {
        const AttentionParams& p = params.attention;
        using Sum = Accumulator<Value>;
        const Task task = task_at<Sum::kChannels>(p, at);
        if (!task.active) {
            return;
        }
        Sum sum;
        for (int32_t frame = 0; frame < kFrames; ++frame) {
            const int64_t first
                = ((static_cast<int64_t>(task.query) * p.heads + task.head) * kFrames + frame) * p.points;
            const AuxReader<Aux> offsets(p, p.offsets, 2 * first);
            const AuxReader<Aux> logits(p, p.logits, first);
            const float* at_reference = params.reference + 2 * (static_cast<int64_t>(frame) * p.queries() + task.query);
            const OneReference reference{{at_reference[0], at_reference[1]}};
            gather<Value, Aux>(p, plane_of<Value>(p, frame, task), offsets, logits, softmax_over(logits, p.points),
                reference, sum);
        }
        store_result<AuxTraits<Aux>::kFast>(p, 0, task, sum.sum, p.value_scale, Sum::kUnit / kFrames);
    }
};

// Phase 0 projects the tile's pillars into every camera, once for all heads and channels; phase 1 gathers from the
// cameras that see the query.
template <typename Value, typename Aux>
struct SpatialBody {
    using Params = SpatialParams;
    static constexpr int kPhases = 2;

    template <int Phase>
    QDBEV_HD static void run(const Params& params, const Place& at, void* shared)
    {
        const AttentionParams& p = params.attention;
        Float2* projected = static_cast<Float2*>(shared);  // [tile query, camera, padded anchor]
        uint8_t* seen = reinterpret_cast<uint8_t*>(
            projected + p.tiling.queries_per_block() * params.cameras * params.padded_anchors);  // [tile query, camera]
        if constexpr (Phase == 0) {
            project(params, at, projected, seen);
        } else {
            attend(params, at, projected, seen);
        }
    }

    QDBEV_HD static void project(const Params& params, const Place& at, Float2* projected, uint8_t* seen)
    {
        const AttentionParams& p = params.attention;
        const Tiling& t = p.tiling;
        const int32_t count = t.queries_per_block() * params.cameras;
        for (int32_t i = at.thread; i < count; i += at.threads) {
            const int32_t tile_query = i / params.cameras;
            const int32_t camera = i % params.cameras;
            const int32_t x = (at.block_x % t.tiles_x) * t.tile_width + tile_query % t.tile_width;
            const int32_t y = (at.block_x / t.tiles_x) * t.tile_height + tile_query / t.tile_width;
            const bool active = x < p.query_width && y < p.query_height;
            const bool visible
                = active && project_pillar(params, x, y, camera, projected + i * params.padded_anchors);
            seen[i] = visible ? 1 : 0;
        }
    }

    QDBEV_HD static void attend(const Params& params, const Place& at, const Float2* projected, const uint8_t* seen)
    {
        const AttentionParams& p = params.attention;
        using Sum = Accumulator<Value>;
        const Task task = task_at<Sum::kChannels>(p, at);
        if (!task.active) {
            return;
        }
        const int32_t samples = p.levels * p.points;
        const int64_t first = (static_cast<int64_t>(task.query) * p.heads + task.head) * samples;
        const AuxReader<Aux> offsets(p, p.offsets, 2 * first);
        const AuxReader<Aux> logits(p, p.logits, first);
        seen += task.tile_query * params.cameras;
        projected += task.tile_query * params.cameras * params.padded_anchors;
        Sum sum;
        Softmax softmax{0.0F, 0.0F};
        int32_t cameras_seeing = 0;
        // Pointers that walk, not indices: int8 is at the register limit, and ptxas spills for some GPUs otherwise.
        for (int32_t camera = 0; camera < params.cameras; ++camera, ++seen, projected += params.padded_anchors) {
            if (*seen == 0) {
                continue;
            }
            if (cameras_seeing++ == 0) {
                softmax = softmax_over(logits, samples);
            }
            const AnchorReferences references{projected, params.anchors, 0};
            gather<Value, Aux>(p, plane_of<Value>(p, camera, task), offsets, logits, softmax, references, sum);
        }
        const float mean = 1.0F / static_cast<float>(cameras_seeing > 1 ? cameras_seeing : 1);
        store_result<AuxTraits<Aux>::kFast>(p, 0, task, sum.sum, p.value_scale * mean, Sum::kUnit);
    }
};

}  // namespace qdbev
