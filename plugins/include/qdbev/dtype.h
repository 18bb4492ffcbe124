// Element types, and FP16 that needs no CUDA header on the host.
#pragma once

#include <cstddef>

#include "qdbev/hd.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace qdbev {

enum class DType : int32_t { kF32 = 0, kF16 = 1, kI8 = 2 };

// IEEE binary16 as its bits: arithmetic is always FP32.
struct Half {
    uint16_t bits;
};
static_assert(sizeof(Half) == 2, "FP16 tensors are arrays of Half");

QDBEV_HD size_t size_of(DType type)
{
    return type == DType::kF32 ? 4U : (type == DType::kF16 ? 2U : 1U);
}

QDBEV_HD float to_float(float value)
{
    return value;
}

QDBEV_HD float to_float(int8_t value)
{
    return static_cast<float>(value);
}

QDBEV_HD float to_float(Half value)
{
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(value.bits));
#else
    const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000U) << 16U;
    const uint32_t exponent = (value.bits >> 10U) & 0x1FU;
    const uint32_t mantissa = value.bits & 0x3FFU;
    if (exponent == 0x1FU) {
        return bits_to_float(sign | 0x7F800000U | (mantissa << 13U));
    }
    if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24
        const float magnitude = static_cast<float>(mantissa) * bits_to_float(0x33800000U);
        return bits_to_float(sign | float_to_bits(magnitude));
    }
    return bits_to_float(sign | ((exponent + 112U) << 23U) | (mantissa << 13U));
#endif
}

// Round to nearest even; overflow becomes infinity, as in hardware.
QDBEV_HD Half to_half(float value)
{
#ifdef __CUDA_ARCH__
    return Half{__half_as_ushort(__float2half_rn(value))};
#else
    const uint32_t bits = float_to_bits(value);
    const uint32_t sign = (bits >> 16U) & 0x8000U;
    const uint32_t magnitude = bits & 0x7FFFFFFFU;
    uint32_t result = 0;
    if (magnitude > 0x7F800000U) {
        result = 0x7E00U;  // NaN
    } else if (magnitude >= 0x47800000U) {
        result = 0x7C00U;
    } else if (magnitude < 0x38800000U) {  // subnormal in FP16: let an FP32 addition do the rounding
        const float shifted = bits_to_float(magnitude) + 0.5F;
        result = float_to_bits(shifted) - 0x3F000000U;
    } else {
        const uint32_t odd = (magnitude >> 13U) & 1U;
        result = (magnitude - 0x38000000U + 0xFFFU + odd) >> 13U;
    }
    return Half{static_cast<uint16_t>(sign | result)};
#endif
}

}  // namespace qdbev
