// The heart of the attention ops: for one head of one query, gather 16 bytes of channels at every sampling point and
// sum them, weighted. One thread does this alone; its neighbours do the head's other channels.
#pragma once

#include "qdbev/bilinear.h"
#include "qdbev/params.h"
#include "qdbev/vec.h"

namespace qdbev {

// Offsets or logits of one query and head. `AnyAux` decides the type at run time, for the variants that are not fast.
struct AnyAux {};

template <typename Aux>
struct AuxReader {
    const Aux* from;

    QDBEV_HD AuxReader(const AttentionParams&, const void* base, int64_t first)
        : from(static_cast<const Aux*>(base) + first)
    {
    }
    template <int N>
    QDBEV_HD void read(int32_t i, float (&out)[N]) const
    {
        load_numbers(from + i, out);
    }
};

template <>
struct AuxReader<AnyAux> {
    const void* base;
    int64_t first;
    bool is_half;

    QDBEV_HD AuxReader(const AttentionParams& p, const void* base_, int64_t first_)
        : base(base_), first(first_), is_half(p.aux_type == DType::kF16)
    {
    }
    template <int N>
    QDBEV_HD void read(int32_t i, float (&out)[N]) const
    {
        QDBEV_UNROLL
        for (int j = 0; j < N; ++j) {
            out[j] = at(i + j);
        }
    }
    QDBEV_HD float at(int32_t i) const
    {
        return is_half ? to_float(read_only(static_cast<const Half*>(base) + first + i))
                       : read_only(static_cast<const float*>(base) + first + i);
    }
};

template <typename Aux>
struct AuxTraits {
    static constexpr bool kFast = true;
    static constexpr int kLogits = 4;  // that softmax reads at once
    static constexpr int kPoints = 2;  // whose eight corners are in flight together
};

template <>
struct AuxTraits<AnyAux> {
    static constexpr bool kFast = false;
    static constexpr int kLogits = 1;
    static constexpr int kPoints = 1;
};

// Softmax as exp(logit - largest) * inverse_sum. NaN logits make NaN weights, as everywhere.
struct Softmax {
    float largest;
    float inverse_sum;

    QDBEV_HD float weight(float logit) const { return exp_nonpositive(logit - largest) * inverse_sum; }
};

template <typename Aux>
QDBEV_HD Softmax softmax_over(const AuxReader<Aux>& logits, int32_t count)
{
    constexpr int kLogits = AuxTraits<Aux>::kLogits;
    float v[kLogits];
    float largest = -INFINITY;
    for (int32_t i = 0; i < count; i += kLogits) {
        logits.read(i, v);
        QDBEV_UNROLL
        for (int j = 0; j < kLogits; ++j) {
            largest = fmaxf(largest, v[j]);
        }
    }
    float sum = 0.0F;
    for (int32_t i = 0; i < count; i += kLogits) {
        logits.read(i, v);
        QDBEV_UNROLL
        for (int j = 0; j < kLogits; ++j) {
            sum += exp_nonpositive(v[j] - largest);
        }
    }
    return Softmax{largest, 1.0F / sum};
}

// Where the channels of one sample go. FP32 always sums in FP32.
template <typename Value>
struct Accumulator;

template <>
struct Accumulator<float> {
    static constexpr int kChannels = 4;
    static constexpr float kUnit = 1.0F;
    float sum[kChannels] = {};

    QDBEV_HD void add(const Vec16 (&corner)[4], const Corners& c, float attention)
    {
        float w[4];
        weights_of(c, attention, w);
        QDBEV_UNROLL
        for (int i = 0; i < 4; ++i) {
            QDBEV_UNROLL
            for (int k = 0; k < kChannels; ++k) {
                sum[k] += w[i] * bits_to_float(corner[i].word[k]);
            }
        }
    }
};

template <>
struct Accumulator<Half> {
    static constexpr int kChannels = 8;
    static constexpr float kUnit = 1.0F;
    float sum[kChannels] = {};

    QDBEV_HD void add(const Vec16 (&corner)[4], const Corners& c, float attention)
    {
        float w[4];
        weights_of(c, attention, w);
        QDBEV_UNROLL
        for (int i = 0; i < 4; ++i) {
            QDBEV_UNROLL
            for (int k = 0; k < kChannels; ++k) {
                sum[k] += w[i] * to_float(half_of(corner[i].word[k / 2], k % 2));
            }
        }
    }
};

// Bilinear interpolation of int8 in integers (two products an instruction, no conversion), the attention-weighted sum
// in FP32. The integer r of a sample satisfies |r| <= 2^22, so starting the sum at the bits of kRoundMagic makes the
// result the float kRoundMagic + r.
template <>
struct Accumulator<int8_t> {
    static constexpr int kChannels = 16;
    static constexpr float kUnit = 1.0F / kFixedOne;  // what 1 of `sum` is worth in int8 steps
    float sum[kChannels] = {};

    QDBEV_HD void add(const Vec16 (&corner)[4], const Corners& c, float attention)
    {
        const FixedWeights w = fixed_weights_of(c);
        QDBEV_UNROLL
        for (int i = 0; i < 4; ++i) {
            const uint32_t upper01 = byte_permute(corner[0].word[i], corner[1].word[i], 0x5140U);
            const uint32_t upper23 = byte_permute(corner[0].word[i], corner[1].word[i], 0x7362U);
            const uint32_t lower01 = byte_permute(corner[2].word[i], corner[3].word[i], 0x5140U);
            const uint32_t lower23 = byte_permute(corner[2].word[i], corner[3].word[i], 0x7362U);
            constexpr int32_t kStart = 0x4B400000;  // the bits of kRoundMagic
            const int32_t r[4] = {
                dot2_lo(w.lower, lower01, dot2_lo(w.upper, upper01, kStart)),
                dot2_hi(w.lower, lower01, dot2_hi(w.upper, upper01, kStart)),
                dot2_lo(w.lower, lower23, dot2_lo(w.upper, upper23, kStart)),
                dot2_hi(w.lower, lower23, dot2_hi(w.upper, upper23, kStart)),
            };
            QDBEV_UNROLL
            for (int j = 0; j < 4; ++j) {
                sum[4 * i + j] += attention * (bits_to_float(static_cast<uint32_t>(r[j])) - kRoundMagic);
            }
        }
    }
};

// Reference points in the order in which points take them.
struct OneReference {
    Float2 point;

    QDBEV_HD void start_level() {}
    QDBEV_HD Float2 take() { return point; }
};

struct AnchorReferences {  // point p belongs to anchor p % count
    const Float2* anchor;
    int32_t count;
    int32_t next;

    QDBEV_HD void start_level() { next = 0; }
    QDBEV_HD Float2 take()
    {
        const Float2 point = anchor[next];
        next = next + 1 == count ? 0 : next + 1;
        return point;
    }
};

// Adds attention-weighted samples of all levels and points. `plane` points at this thread's channels of token 0.
template <typename Value, typename Aux, typename References>
QDBEV_HD void gather(const AttentionParams& p, const Value* plane, const AuxReader<Aux>& offsets,
    const AuxReader<Aux>& logits, const Softmax& softmax, References references, Accumulator<Value>& sum)
{
    constexpr bool kFast = AuxTraits<Aux>::kFast;
    constexpr int kPoints = AuxTraits<Aux>::kPoints;
    const int32_t token_stride = p.channels();  // 32 bits are enough: see check_plane in ops/
    for (int32_t l = 0; l < p.levels; ++l) {
        const Level level = p.level[l];
        const float width = static_cast<float>(level.width);
        const float height = static_cast<float>(level.height);
        const int32_t row_stride = level.width * token_stride;
        references.start_level();
        for (int32_t first = 0; first < p.points; first += kPoints) {
            const int32_t index = l * p.points + first;
            float xy[2 * kPoints];
            float logit[kPoints];
            offsets.read(2 * index, xy);
            logits.read(index, logit);
            Corners c[kPoints];
            uint32_t any = 0;
            QDBEV_UNROLL
            for (int i = 0; i < kPoints; ++i) {
                const Float2 reference = references.take();
                c[i] = corners_at(0, 0, fma_rn(reference.x, width, xy[2 * i] - 0.5F),
                    fma_rn(reference.y, height, xy[2 * i + 1] - 0.5F), level.width, level.height);
                any |= c[i].inside;
            }
            if (any == 0) {
                continue;
            }
            Vec16 corner[kPoints][4];
            QDBEV_UNROLL
            for (int i = 0; i < kPoints; ++i) {
                const int32_t first_corner = (level.start + c[i].index) * token_stride;
                QDBEV_UNROLL
                for (int j = 0; j < 4; ++j) {
                    const int32_t at = first_corner + (j % 2) * token_stride + (j / 2) * row_stride;
                    corner[i][j] = c[i].has(j) ? load16<kFast>(plane + at) : zero16();
                }
            }
            QDBEV_UNROLL
            for (int i = 0; i < kPoints; ++i) {
                // A point without a corner inside adds nothing, even where its weight is NaN.
                const float attention = c[i].inside != 0 ? softmax.weight(logit[i]) : 0.0F;
                sum.add(corner[i], c[i], attention);
            }
        }
    }
}

}  // namespace qdbev
