// What lets one function be compiled for the host and for the GPU: the marker, and the few operations that differ.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define QDBEV_HD __host__ __device__ __forceinline__
#else
#define QDBEV_HD inline
#endif

#ifdef __CUDA_ARCH__
#define QDBEV_UNROLL _Pragma("unroll")
#define QDBEV_UNROLL_4 _Pragma("unroll 4")
#else
#define QDBEV_UNROLL
#define QDBEV_UNROLL_4
#endif

namespace qdbev {

struct Float2 {
    float x;
    float y;
};

QDBEV_HD float bits_to_float(uint32_t bits)
{
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

QDBEV_HD uint32_t float_to_bits(float value)
{
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

// Products and sums that no compiler may contract to a fused multiply-add. The projection uses them, so that host and
// GPU take the same decision about a point on the border of an image.
QDBEV_HD float mul_rn(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;  // the host is compiled with -ffp-contract=off
#endif
}

QDBEV_HD float add_rn(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

// a * b + c with one rounding, on either side: sampling coordinates made with it are the same to the last bit.
QDBEV_HD float fma_rn(float a, float b, float c)
{
#ifdef __CUDA_ARCH__
    return __fmaf_rn(a, b, c);
#else
    return std::fma(a, b, c);
#endif
}

// exp for softmax: arguments are <= 0, where the GPU's fast form is good to about 1e-6 of the result.
QDBEV_HD float exp_nonpositive(float x)
{
#ifdef __CUDA_ARCH__
    return __expf(x);
#else
    return std::exp(x);
#endif
}

// floor, for arguments known to fit.
QDBEV_HD int32_t floor_to_int(float x)
{
#ifdef __CUDA_ARCH__
    return __float2int_rd(x);
#else
    return static_cast<int32_t>(std::floor(x));
#endif
}

// Rounds half to even and saturates; NaN becomes 0.
QDBEV_HD int8_t quantise_int8(float x)
{
    if (!(x == x)) {
        return 0;
    }
    const float clamped = x < -128.0F ? -128.0F : (x > 127.0F ? 127.0F : x);
#ifdef __CUDA_ARCH__
    return static_cast<int8_t>(__float2int_rn(clamped));
#else
    return static_cast<int8_t>(std::nearbyint(clamped));
#endif
}

// Bytes picked out of the eight of (b:a), as PTX's prmt does without sign replication.
QDBEV_HD uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector)
{
#ifdef __CUDA_ARCH__
    return __byte_perm(a, b, selector);
#else
    const uint64_t both = (static_cast<uint64_t>(b) << 32U) | a;
    uint32_t result = 0;
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t pick = (selector >> (4U * i)) & 7U;
        result |= static_cast<uint32_t>((both >> (8U * pick)) & 0xFFU) << (8U * i);
    }
    return result;
#endif
}

// sum + w.lo16 * b.byte0 + w.hi16 * b.byte1, weights unsigned, bytes signed; `dot2_hi` takes bytes 2 and 3.
QDBEV_HD int32_t dot2_lo(uint32_t weights, uint32_t bytes, int32_t sum)
{
#ifdef __CUDA_ARCH__
    int32_t result;
    asm("dp2a.lo.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(weights), "r"(bytes), "r"(sum));
    return result;
#else
    return sum + static_cast<int32_t>(weights & 0xFFFFU) * static_cast<int8_t>(bytes & 0xFFU)
        + static_cast<int32_t>(weights >> 16U) * static_cast<int8_t>((bytes >> 8U) & 0xFFU);
#endif
}

QDBEV_HD int32_t dot2_hi(uint32_t weights, uint32_t bytes, int32_t sum)
{
#ifdef __CUDA_ARCH__
    int32_t result;
    asm("dp2a.hi.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(weights), "r"(bytes), "r"(sum));
    return result;
#else
    return dot2_lo(weights, bytes >> 16U, sum);
#endif
}

}  // namespace qdbev
