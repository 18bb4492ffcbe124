// Columns of a modulated deformable convolution: x sampled at every tap's own place, times the tap's mask.
//
// Row c * taps + k of the result is channel c under tap k, which is the order of weight.reshape(O, C * kh * kw): the
// convolution that remains is a plain 1x1 convolution, for TensorRT to run in whatever precision it does best.
#pragma once

#include "qdbev/body.h"

namespace qdbev {

constexpr int32_t kSampleThreads = 128;   // neighbouring output pixels of one tap
constexpr int32_t kSampleChannels = 32;   // channels a thread serves with one computation of the place

// The block's grid: x walks output pixels, y is (tap, group of channels), z the batch.
template <typename Value, typename Aux>
struct DeformSampleBody {
    using Params = DeformSampleParams;
    static constexpr int kPhases = 1;

    template <int Phase>
    QDBEV_HD static void run(const Params& p, const Place& at, void*)
    {
        const int32_t pixels = p.out_height * p.out_width;
        const int32_t pixel = at.block_x * kSampleThreads + at.thread;
        if (pixel >= pixels) {
            return;
        }
        const int32_t taps = p.taps();
        const int32_t tap = at.block_y % taps;
        const int32_t first_channel = (at.block_y / taps) * kSampleChannels;
        const int32_t out_y = pixel / p.out_width;
        const int32_t out_x = pixel % p.out_width;

        const Aux* offset = static_cast<const Aux*>(p.offset);
        const int64_t at_offset = (static_cast<int64_t>(at.block_z) * 2 * taps + 2 * tap) * pixels + pixel;
        const float dy = to_float(read_only(offset + at_offset));
        const float dx = to_float(read_only(offset + at_offset + pixels));
        const int64_t at_mask = (static_cast<int64_t>(at.block_z) * taps + tap) * pixels + pixel;
        const float mask = to_float(read_only(static_cast<const Aux*>(p.mask) + at_mask));

        const int32_t tap_y = out_y * p.stride[0] - p.padding[0] + (tap / p.kernel_width) * p.dilation[0];
        const int32_t tap_x = out_x * p.stride[1] - p.padding[1] + (tap % p.kernel_width) * p.dilation[1];
        const Corners c = corners_at(tap_x, tap_y, dx, dy, p.width, p.height);
        float w[4];
        weights_of(c, c.inside != 0 ? mask * p.value_scale : 0.0F, w);

        const int32_t plane = p.height * p.width;
        const int32_t last_channel
            = first_channel + kSampleChannels < p.channels ? first_channel + kSampleChannels : p.channels;
        const int64_t image = static_cast<int64_t>(at.block_z) * p.channels;
        const Value* x = static_cast<const Value*>(p.x);
        int64_t from = (image + first_channel) * plane + c.index;
        int64_t to = ((image + first_channel) * taps + tap) * pixels + pixel;
        QDBEV_UNROLL_4
        for (int32_t channel = first_channel; channel < last_channel; ++channel) {
            float sum = 0.0F;
            QDBEV_UNROLL
            for (int j = 0; j < 4; ++j) {
                if (c.has(j)) {
                    sum += w[j] * to_float(read_only(x + from + (j % 2) + (j / 2) * p.width));
                }
            }
            store_one(p, to, sum);
            from += plane;
            to += static_cast<int64_t>(taps) * pixels;
        }
    }

    QDBEV_HD static void store_one(const Params& p, int64_t index, float value)
    {
        if (p.out_type == DType::kF32) {
            static_cast<float*>(p.out)[index] = value;
        } else if (p.out_type == DType::kF16) {
            static_cast<Half*>(p.out)[index] = to_half(value);
        } else {
            static_cast<int8_t*>(p.out)[index] = quantise_int8(value / p.out_scale);
        }
    }
};

}  // namespace qdbev
