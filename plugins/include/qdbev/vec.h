// Sixteen bytes of channels: how they are read, and how results are written.
//
// `Fast` variants rely on 16-byte alignment, which the dispatcher has checked; the others touch one element at a time
// and work for any address that is a multiple of the element's size.
#pragma once

#include "qdbev/dtype.h"

namespace qdbev {

struct Vec16 {
    uint32_t word[4];
};

QDBEV_HD Vec16 zero16()
{
    return Vec16{{0, 0, 0, 0}};
}

template <bool Fast, typename T>
QDBEV_HD Vec16 load16(const T* from)
{
    Vec16 result;
#ifdef __CUDA_ARCH__
    if constexpr (Fast) {
        const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
        result = Vec16{{v.x, v.y, v.z, v.w}};
    } else if constexpr (sizeof(T) == 4) {
        QDBEV_UNROLL
        for (int i = 0; i < 4; ++i) {
            result.word[i] = __ldg(reinterpret_cast<const uint32_t*>(from) + i);
        }
    } else if constexpr (sizeof(T) == 2) {
        const uint16_t* p = reinterpret_cast<const uint16_t*>(from);
        QDBEV_UNROLL
        for (int i = 0; i < 4; ++i) {
            result.word[i] = static_cast<uint32_t>(__ldg(p + 2 * i)) | (static_cast<uint32_t>(__ldg(p + 2 * i + 1)) << 16U);
        }
    } else {
        const uint8_t* p = reinterpret_cast<const uint8_t*>(from);
        QDBEV_UNROLL
        for (int i = 0; i < 4; ++i) {
            result.word[i] = static_cast<uint32_t>(__ldg(p + 4 * i)) | (static_cast<uint32_t>(__ldg(p + 4 * i + 1)) << 8U)
                | (static_cast<uint32_t>(__ldg(p + 4 * i + 2)) << 16U)
                | (static_cast<uint32_t>(__ldg(p + 4 * i + 3)) << 24U);
        }
    }
#else
    std::memcpy(&result, from, sizeof result);
#endif
    return result;
}

// One element of a tensor that no thread writes.
template <typename T>
QDBEV_HD T read_only(const T* from)
{
#ifdef __CUDA_ARCH__
    return __ldg(from);
#else
    return *from;
#endif
}

QDBEV_HD Half read_only(const Half* from)
{
#ifdef __CUDA_ARCH__
    return Half{__ldg(&from->bits)};
#else
    return *from;
#endif
}

QDBEV_HD Half half_of(uint32_t word, int which)
{
    return Half{static_cast<uint16_t>(which == 0 ? (word & 0xFFFFU) : (word >> 16U))};
}

// N words of a tensor that no thread writes, in one load.
template <int N>
QDBEV_HD void load_words(const void* from, uint32_t (&word)[N])
{
    static_assert(N == 1 || N == 2 || N == 4, "4, 8 or 16 bytes");
#ifdef __CUDA_ARCH__
    if constexpr (N == 4) {
        const uint4 v = __ldg(static_cast<const uint4*>(from));
        word[0] = v.x;
        word[1] = v.y;
        word[2] = v.z;
        word[3] = v.w;
    } else if constexpr (N == 2) {
        const uint2 v = __ldg(static_cast<const uint2*>(from));
        word[0] = v.x;
        word[1] = v.y;
    } else {
        word[0] = __ldg(static_cast<const uint32_t*>(from));
    }
#else
    std::memcpy(word, from, sizeof word);
#endif
}

// N consecutive numbers (2 or 4), in one load.
template <int N>
QDBEV_HD void load_numbers(const float* from, float (&out)[N])
{
    uint32_t word[N];
    load_words(from, word);
    QDBEV_UNROLL
    for (int i = 0; i < N; ++i) {
        out[i] = bits_to_float(word[i]);
    }
}

template <int N>
QDBEV_HD void load_numbers(const Half* from, float (&out)[N])
{
    uint32_t word[N / 2];
    load_words(from, word);
    QDBEV_UNROLL
    for (int i = 0; i < N; ++i) {
        out[i] = to_float(half_of(word[i / 2], i % 2));
    }
}

template <int Words>
QDBEV_HD void store_words(void* to, const uint32_t* word)
{
#ifdef __CUDA_ARCH__
    if constexpr (Words % 4 == 0) {
        QDBEV_UNROLL
        for (int i = 0; i < Words; i += 4) {
            reinterpret_cast<uint4*>(to)[i / 4] = make_uint4(word[i], word[i + 1], word[i + 2], word[i + 3]);
        }
    } else if constexpr (Words == 2) {
        *reinterpret_cast<uint2*>(to) = make_uint2(word[0], word[1]);
    } else {
        static_assert(Words == 1, "one, two, or a multiple of four words");
        *reinterpret_cast<uint32_t*>(to) = word[0];
    }
#else
    std::memcpy(to, word, sizeof(uint32_t) * Words);
#endif
}

// Writes N channels (4, 8 or 16) at element `index` of `out`; `out_scale` is the int8 step and unused otherwise.
template <bool Fast, int N>
QDBEV_HD void store_channels(void* out, DType type, int64_t index, const float (&value)[N], float out_scale)
{
    if (type == DType::kF32) {
        float* to = static_cast<float*>(out) + index;
        if constexpr (Fast) {
            uint32_t word[N];
            QDBEV_UNROLL
            for (int i = 0; i < N; ++i) {
                word[i] = float_to_bits(value[i]);
            }
            store_words<N>(to, word);
        } else {
            QDBEV_UNROLL
            for (int i = 0; i < N; ++i) {
                to[i] = value[i];
            }
        }
    } else if (type == DType::kF16) {
        Half* to = static_cast<Half*>(out) + index;
        if constexpr (Fast) {
            uint32_t word[N / 2];
            QDBEV_UNROLL
            for (int i = 0; i < N / 2; ++i) {
                word[i] = to_half(value[2 * i]).bits | (static_cast<uint32_t>(to_half(value[2 * i + 1]).bits) << 16U);
            }
            store_words<N / 2>(to, word);
        } else {
            QDBEV_UNROLL
            for (int i = 0; i < N; ++i) {
                to[i] = to_half(value[i]);
            }
        }
    } else {
        int8_t* to = static_cast<int8_t*>(out) + index;
        if constexpr (Fast) {
            uint32_t word[N / 4];
            QDBEV_UNROLL
            for (int i = 0; i < N / 4; ++i) {
                word[i] = 0;
                QDBEV_UNROLL
                for (int j = 0; j < 4; ++j) {
                    const int8_t q = quantise_int8(value[4 * i + j] / out_scale);
                    word[i] |= static_cast<uint32_t>(static_cast<uint8_t>(q)) << (8 * j);
                }
            }
            store_words<N / 4>(to, word);
        } else {
            QDBEV_UNROLL
            for (int i = 0; i < N; ++i) {
                to[i] = quantise_int8(value[i] / out_scale);
            }
        }
    }
}

}  // namespace qdbev
