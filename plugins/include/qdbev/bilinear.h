// Bilinear sampling with zero padding, pixel centres at half integers: the four corners of a point and their weights.
#pragma once

#include "qdbev/hd.h"

namespace qdbev {

// Corners in the order (y0,x0), (y0,x1), (y1,x0), (y1,x1).
struct Corners {
    int32_t index;    // of (y0, x0) in the plane; may be one row or column outside, then `inside` says so
    uint32_t inside;  // bit i: corner i lies in the plane. 0: the point contributes nothing
    float lx;         // distance from x0 and y0, 0 <= l <= 1: a hair below zero is a whole step from -1, rounded
    float ly;

    QDBEV_HD bool has(int corner) const { return ((inside >> corner) & 1U) != 0; }
};

// (base_x + x, base_y + y) in pixels, where 0 is the centre of the first; kept apart because the sum of a large whole
// number and a small fraction would lose bits of the fraction. A location that is NaN, infinite or too far for any
// corner to lie in the plane fails the comparison, so no index is ever made from it.
QDBEV_HD Corners corners_at(int32_t base_x, int32_t base_y, float x, float y, int32_t width, int32_t height)
{
    Corners c{0, 0, 0.0F, 0.0F};
    if (x > static_cast<float>(-1 - base_x) && y > static_cast<float>(-1 - base_y)
        && x < static_cast<float>(width - base_x) && y < static_cast<float>(height - base_y)) {
        const int32_t floor_x = floor_to_int(x);
        const int32_t floor_y = floor_to_int(y);
        const int32_t x0 = base_x + floor_x;
        const int32_t y0 = base_y + floor_y;
        c.lx = x - static_cast<float>(floor_x);
        c.ly = y - static_cast<float>(floor_y);
        c.index = y0 * width + x0;
        const uint32_t left = x0 >= 0 ? 1U : 0U;
        const uint32_t right = x0 + 1 < width ? 2U : 0U;
        const uint32_t columns = left | right;
        c.inside = (y0 >= 0 ? columns : 0U) | (y0 + 1 < height ? columns << 2U : 0U);
    }
    return c;
}

QDBEV_HD void weights_of(const Corners& c, float factor, float weight[4])
{
    const float lower = c.ly * factor;
    const float upper = factor - lower;
    weight[1] = upper * c.lx;
    weight[0] = upper - weight[1];
    weight[3] = lower * c.lx;
    weight[2] = lower - weight[3];
}

// The same weights as unsigned 16-bit integers in units of 2^-15, two to a word: (corner 0, corner 1), (corner 2,
// corner 3). They sum to exactly one. The split between the rows and the split within each row are off by at most half
// a unit, so an int8 sample made from them is off by at most 1.5 * 255 * 2^-15 < 0.012 of an int8 step.
constexpr float kFixedOne = 32768.0F;
constexpr float kRoundMagic = 12582912.0F;  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits

struct FixedWeights {
    uint32_t upper;
    uint32_t lower;
};

QDBEV_HD FixedWeights fixed_weights_of(const Corners& c)
{
    // Cheaper than conversions, and the same to the last bit on host and GPU.
    const float rounded = add_rn(mul_rn(c.ly, kFixedOne), kRoundMagic);
    const float lower = rounded - kRoundMagic;
    const uint32_t lower_total = float_to_bits(rounded) & 0xFFFFU;
    const uint32_t w3 = float_to_bits(add_rn(mul_rn(lower, c.lx), kRoundMagic)) & 0xFFFFU;
    const uint32_t w1 = float_to_bits(add_rn(mul_rn(kFixedOne - lower, c.lx), kRoundMagic)) & 0xFFFFU;
    const uint32_t w2 = lower_total - w3;
    const uint32_t w0 = 32768U - lower_total - w1;
    return FixedWeights{w0 | (w1 << 16U), w2 | (w3 << 16U)};
}

}  // namespace qdbev
