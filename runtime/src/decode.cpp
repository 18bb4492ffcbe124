#include "decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ego.h"

namespace qdbev::runtime {

namespace {

constexpr float kPi = 3.14159265358979323846F;
constexpr float kHalfPi = 1.57079632679489661923F;
constexpr float kTwoPi = 6.28318530717958647692F;

// Rises as the logit falls: a float's bits as they are where it is negative, reversed where it is positive. Zeros of
// both signs are equal, and what is no number comes last, as numpy sorts.
uint32_t falling(float logit) noexcept
{
    if (std::isnan(logit)) {
        return UINT32_MAX;
    }
    const float value = logit + 0.0F;  // no negative zero
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    constexpr uint32_t kSign = 0x80000000U;
    return (bits & kSign) != 0 ? bits : ~bits & ~kSign;
}

// The angle of nuScenes' yaw from the one whose sine and cosine the network was trained on: clockwise from the y axis.
float yaw_of(float rotation) noexcept
{
    const float yaw = -rotation - kHalfPi;
    return floor_mod(yaw + kPi, kTwoPi) - kPi;
}

}  // namespace

Decoder::Decoder(const Contract& contract, float min_score)
    : layers_(static_cast<std::size_t>(contract.decoder_layers)),
      queries_(static_cast<std::size_t>(contract.queries)),
      range_(contract.post_center_range),
      min_score_(min_score),
      ranks_(queries_ * kClasses),
      boxes_(std::min(static_cast<std::size_t>(contract.max_boxes), ranks_.size()))
{
}

std::size_t Decoder::run(const float* classes, const float* coords) noexcept
{
    const float* const logits = classes + (layers_ - 1) * queries_ * kClasses;
    const float* const codes = coords + (layers_ - 1) * queries_ * kBoxCode;
    // Rank and index in one number: no two are equal, so that the lower index comes first among equal logits.
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
        ranks_[i] = static_cast<uint64_t>(falling(logits[i])) << 32 | i;
    }
    const auto end = ranks_.begin() + static_cast<std::ptrdiff_t>(boxes_.size());
    if (end != ranks_.end()) {
        std::nth_element(ranks_.begin(), end, ranks_.end());
    }
    std::sort(ranks_.begin(), end);

    std::size_t count = 0;
    for (auto rank = ranks_.begin(); rank != end; ++rank) {
        const std::size_t index = *rank & UINT32_MAX;
        Box& box = boxes_[count];
        if (decode(logits[index], codes + index / kClasses * kBoxCode, box)) {
            box.label = static_cast<int32_t>(index % kClasses);
            ++count;
        }
    }
    return count;
}

// Whether there is a box; its label is left to the caller. The code: cx, cy, log w, log l, cz, log h, sin, cos, vx, vy.
bool Decoder::decode(float logit, const float* code, Box& box) const noexcept
{
    box.center = {code[0], code[1], code[4]};
    for (std::size_t axis = 0; axis < 3; ++axis) {
        const double at = box.center[axis];  // the limits are in double precision; what is no number is outside
        if (!(at >= range_[axis] && at <= range_[axis + 3])) {
            return false;
        }
    }
    box.score = 1.0F / (1.0F + std::exp(-logit));
    if (min_score_ > 0 && !(box.score >= min_score_)) {
        return false;
    }
    box.size = {std::exp(code[2]), std::exp(code[3]), std::exp(code[5])};
    box.velocity = {code[8], code[9]};
    const float rotation = std::atan2(code[6], code[7]);
    box.yaw = yaw_of(rotation);
    return std::isfinite(box.size[0]) && std::isfinite(box.size[1]) && std::isfinite(box.size[2])
        && std::isfinite(rotation) && std::isfinite(box.velocity[0]) && std::isfinite(box.velocity[1]);
}

}  // namespace qdbev::runtime
