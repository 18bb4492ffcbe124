// Boxes from the network's two output tensors, without NMS: the candidates, order and tests of the Python package.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "qdbev_runtime/contract.h"
#include "qdbev_runtime/frame.h"

namespace qdbev::runtime {

// All memory is taken when it is made, for a verified contract.
//
// Which candidates are taken, their order, and all that is no exp or atan2 equal Python's to the bit. exp and atan2 are
// the C library's, in single precision; numpy has its own, which differ in the last bits from machine to machine: by up
// to 2 units in the last place of a size, 4 of a score, 1e-6 radians of a yaw where it was measured.
class Decoder {
public:
    // Boxes with a score below `min_score` are left out; what is no number is below every score but 0.
    Decoder(const Contract& contract, float min_score);

    // From [layers, 1, queries, 10] twice; the last layer counts. Returns how many boxes there are.
    std::size_t run(const float* classes, const float* coords) noexcept;

    const Box* boxes() const noexcept { return boxes_.data(); }  // by falling score, until the next run

private:
    bool decode(float logit, const float* code, Box& box) const noexcept;

    std::size_t layers_, queries_;
    std::array<double, 6> range_;  // low x y z, high x y z
    float min_score_;
    std::vector<uint64_t> ranks_;  // of all candidates: the smaller, the better
    std::vector<Box> boxes_;
};

}  // namespace qdbev::runtime
